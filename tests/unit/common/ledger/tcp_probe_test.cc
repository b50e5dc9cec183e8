#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <string>

#include "common/ledger/ledger.h"

namespace quantfl::ledger {
namespace {

// Two connected TCP sockets on loopback.
class TcpPair {
 public:
  TcpPair() {
    const int listener = ::socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof address;
    EXPECT_EQ(::bind(listener, reinterpret_cast<sockaddr*>(&address), length), 0);
    EXPECT_EQ(::listen(listener, 1), 0);
    ::getsockname(listener, reinterpret_cast<sockaddr*>(&address), &length);
    a = ::socket(AF_INET, SOCK_STREAM, 0);
    EXPECT_EQ(::connect(a, reinterpret_cast<sockaddr*>(&address), length), 0);
    b = ::accept(listener, nullptr, nullptr);
    ::close(listener);
  }
  ~TcpPair() {
    Close(a);
    Close(b);
  }
  static void Close(int& fd) {
    if (fd >= 0) {
      ::shutdown(fd, SHUT_RDWR);
      ::close(fd);
    }
    fd = -1;
  }
  int a = -1, b = -1;
};

// By edge-triggered events for changes of the connection's state, as the acceptor waits.
void WaitUntilClosed(TcpProbe& probe) {
  const int epoll = ::epoll_create1(0);
  epoll_event event{};
  event.events = EPOLLRDHUP | EPOLLET;
  ASSERT_EQ(::epoll_ctl(epoll, EPOLL_CTL_ADD, probe.descriptor(), &event), 0);
  while (!probe.Read().closed) {
    ASSERT_EQ(::epoll_wait(epoll, &event, 1, 10'000), 1) << "no event for the end";
  }
  ::close(epoll);
}

TEST(TcpProbeTest, Read_CountsTheBytesOfTheStream) {
  TcpPair pair;
  const auto probe = DuplicateTcpProbe(pair.a);
  ASSERT_TRUE(probe.ok());
  const std::string text(10'000, 'x');
  ASSERT_EQ(::write(pair.a, text.data(), text.size()), 10'000);
  std::string received(10'000, 0);
  ASSERT_EQ(::recv(pair.b, received.data(), received.size(), MSG_WAITALL), 10'000);
  ASSERT_EQ(::write(pair.b, "12345", 5), 5);
  ASSERT_EQ(::recv(pair.a, received.data(), 5, MSG_WAITALL), 5);
  const TcpCounters counters = (*probe)->Read();
  if (!counters.bytes_sent) GTEST_SKIP() << "this kernel does not count bytes";
  EXPECT_EQ(*counters.bytes_sent - *counters.bytes_retransmitted, 10'000u);
  EXPECT_EQ(counters.bytes_received, 5u);
  EXPECT_GT(*counters.segments_sent, 0u);
  // IPv4, and on Linux timestamps unless they are switched off.
  EXPECT_TRUE(counters.header_bytes == 52u || counters.header_bytes == 40u);
  EXPECT_FALSE(counters.closed);
}

TEST(TcpProbeTest, Read_AnswersAfterTheOwnerHasClosed) {
  TcpPair pair;
  const auto probe = DuplicateTcpProbe(pair.a);
  ASSERT_TRUE(probe.ok());
  ASSERT_EQ(::write(pair.a, "123", 3), 3);
  TcpPair::Close(pair.a);
  char received[4];
  ASSERT_EQ(::recv(pair.b, received, 4, MSG_WAITALL), 3) << "the end of the stream did not come";
  TcpPair::Close(pair.b);
  WaitUntilClosed(**probe);
  const TcpCounters counters = (*probe)->Read();
  if (!counters.bytes_sent) GTEST_SKIP() << "this kernel does not count bytes";
  EXPECT_EQ(counters.bytes_sent, 3u);
  EXPECT_TRUE(counters.closed);
}

TEST(TcpProbeTest, PeerThatNeverCloses_IsClosedOnceAllIsAcknowledged) {
  TcpPair pair;
  const auto probe = DuplicateTcpProbe(pair.a);
  ASSERT_TRUE(probe.ok());
  TcpPair::Close(pair.a);
  char byte;
  ASSERT_EQ(::recv(pair.b, &byte, 1, 0), 0);
  WaitUntilClosed(**probe);
}

TEST(TcpProbeTest, NotATcpSocket_IsInvalidArgument) {
  int ends[2];
  ASSERT_EQ(::pipe(ends), 0);
  EXPECT_EQ(DuplicateTcpProbe(ends[0]).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(DuplicateTcpProbe(-1).status().code(), absl::StatusCode::kInvalidArgument);
  ::close(ends[0]);
  ::close(ends[1]);
  const int udp = ::socket(AF_INET, SOCK_DGRAM, 0);
  EXPECT_EQ(DuplicateTcpProbe(udp).status().code(), absl::StatusCode::kInvalidArgument);
  ::close(udp);
}

}  // namespace
}  // namespace quantfl::ledger
