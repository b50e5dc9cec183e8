#include "common/app/notify.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstddef>
#include <cstring>
#include <string>

#include "absl/strings/str_cat.h"

namespace quantfl::app {
namespace {

TEST(Notify, NobodyAsked_IsOk) { EXPECT_TRUE(NotifyServiceManager("", "READY=1").ok()); }

TEST(Notify, AbstractSocket_ReceivesTheState) {
  const std::string name = absl::StrCat("@quantfl-notify-", getpid());
  const int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  ASSERT_GE(fd, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path + 1, name.data() + 1, name.size() - 1);
  ASSERT_EQ(bind(fd, reinterpret_cast<const sockaddr*>(&address),
                 static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + name.size())),
            0);
  EXPECT_TRUE(NotifyServiceManager(name, "READY=1\nSTATUS=round 1").ok());
  char buffer[64];
  const ssize_t n = recv(fd, buffer, sizeof(buffer), MSG_DONTWAIT);
  ASSERT_GT(n, 0);
  EXPECT_EQ(std::string(buffer, static_cast<size_t>(n)), "READY=1\nSTATUS=round 1");
  close(fd);
}

TEST(Notify, PathsThatNoSocketHas_AreErrors) {
  EXPECT_EQ(NotifyServiceManager("relative", "READY=1").code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(NotifyServiceManager("/" + std::string(200, 'x'), "READY=1").code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(NotifyServiceManager("/nothing/here", "READY=1").code(),
            absl::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace quantfl::app
