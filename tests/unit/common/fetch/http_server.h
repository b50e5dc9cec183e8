#ifndef QUANTFL_TESTS_UNIT_COMMON_FETCH_HTTP_SERVER_H_
#define QUANTFL_TESTS_UNIT_COMMON_FETCH_HTTP_SERVER_H_

#include <cstdint>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "common/base/mutex.h"

namespace quantfl::fetch {

// Answers GET on 127.0.0.1, one connection after the other, with the bytes it was given: whole HTTP
// responses, so that a test can send broken ones. A path it does not know is 404.
class HttpServer {
 public:
  explicit HttpServer(std::map<std::string, std::string> responses);
  ~HttpServer();
  // "http://127.0.0.1:PORT"
  std::string url() const;
  std::vector<std::string> requested() const;

 private:
  void Serve();

  const std::map<std::string, std::string> responses_;
  int listener_ = -1;
  uint16_t port_ = 0;
  mutable base::Mutex mutex_;
  std::vector<std::string> requested_ QFL_GUARDED_BY(mutex_);
  std::thread thread_;
};

// "HTTP/1.1 200 OK" with `body`; `announced` bytes in its header where that is not the body's size.
std::string Ok(const std::string& body, int64_t announced = -1);

// A port of 127.0.0.1 on which nobody listens.
uint16_t ClosedPort();

}  // namespace quantfl::fetch

#endif  // QUANTFL_TESTS_UNIT_COMMON_FETCH_HTTP_SERVER_H_
