#include "tests/unit/common/fetch/http_server.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"

namespace quantfl::fetch {
namespace {

int Bind(uint16_t& port) {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  QFL_CHECK(fd >= 0 && bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0);
  socklen_t size = sizeof(address);
  QFL_CHECK(getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size) == 0);
  port = ntohs(address.sin_port);
  return fd;
}

}  // namespace

HttpServer::HttpServer(std::map<std::string, std::string> responses)
    : responses_(std::move(responses)) {
  listener_ = Bind(port_);
  QFL_CHECK(listen(listener_, 16) == 0);
  thread_ = std::thread([this] { Serve(); });
}

HttpServer::~HttpServer() {
  shutdown(listener_, SHUT_RDWR);  // accept returns
  thread_.join();
  close(listener_);
}

std::string HttpServer::url() const { return absl::StrCat("http://127.0.0.1:", port_); }

std::vector<std::string> HttpServer::requested() const {
  base::MutexLock lock(mutex_);
  return requested_;
}

void HttpServer::Serve() {
  for (;;) {
    const int connection = accept(listener_, nullptr, nullptr);
    if (connection < 0) return;
    std::string request;
    char buffer[4096];
    while (request.find("\r\n\r\n") == std::string::npos) {
      const ssize_t n = read(connection, buffer, sizeof(buffer));
      if (n <= 0) break;
      request.append(buffer, static_cast<size_t>(n));
    }
    const size_t begin = request.find(' ') + 1;
    const std::string path = request.substr(begin, request.find(' ', begin) - begin);
    {
      base::MutexLock lock(mutex_);
      requested_.push_back(path);
    }
    const auto it = responses_.find(path);
    const std::string response =
        it != responses_.end() ? it->second : "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n";
    for (size_t sent = 0; sent < response.size();) {
      const ssize_t n =
          send(connection, response.data() + sent, response.size() - sent, MSG_NOSIGNAL);
      if (n <= 0) break;
      sent += static_cast<size_t>(n);
    }
    // Half-closed and drained first, so that the client is never reset while it still reads.
    shutdown(connection, SHUT_WR);
    while (read(connection, buffer, sizeof(buffer)) > 0) {
    }
    close(connection);
  }
}

std::string Ok(const std::string& body, int64_t announced) {
  return absl::StrCat("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: ",
                      announced < 0 ? static_cast<int64_t>(body.size()) : announced, "\r\n\r\n",
                      body);
}

uint16_t ClosedPort() {
  uint16_t port = 0;
  close(Bind(port));
  return port;
}

}  // namespace quantfl::fetch
