#include "common/rpc/peer.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>

#include <cstring>

#include "common/rpc/connect.h"

namespace quantfl::rpc {
namespace {

sockaddr_storage Four(const char* text, uint16_t port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  EXPECT_EQ(::inet_pton(AF_INET, text, &address.sin_addr), 1);
  sockaddr_storage storage{};
  std::memcpy(&storage, &address, sizeof address);
  return storage;
}

sockaddr_storage Six(const char* text, uint16_t port) {
  sockaddr_in6 address{};
  address.sin6_family = AF_INET6;
  address.sin6_port = htons(port);
  EXPECT_EQ(::inet_pton(AF_INET6, text, &address.sin6_addr), 1);
  sockaddr_storage storage{};
  std::memcpy(&storage, &address, sizeof address);
  return storage;
}

TEST(PeerTest, PercentDecode_DecodesWhatIsWellFormed) {
  EXPECT_EQ(PercentDecode("ipv6:%5B::1%5D:40412"), "ipv6:[::1]:40412");
  EXPECT_EQ(PercentDecode("ipv4:127.0.0.1:1"), "ipv4:127.0.0.1:1");
  EXPECT_EQ(PercentDecode("%5b%"), "[%");
  EXPECT_EQ(PercentDecode("%5"), "%5");
  EXPECT_EQ(PercentDecode("%zz%41"), "%zzA");
  EXPECT_EQ(PercentDecode(""), "");
}

TEST(PeerTest, PeerName_IsWhatGrpcReports) {
  EXPECT_EQ(PeerName(Four("127.0.0.1", 40412)), "ipv4:127.0.0.1:40412");
  EXPECT_EQ(PeerName(Six("::1", 40412)), "ipv6:[::1]:40412");
  EXPECT_EQ(PeerName(Six("::ffff:10.0.0.1", 7)), "ipv4:10.0.0.1:7");
  EXPECT_EQ(PeerName(sockaddr_storage{}), "");
}

TEST(PeerTest, IsLoopback_KnowsBothFamiliesAndMappedAddresses) {
  EXPECT_TRUE(IsLoopback(Four("127.5.0.1", 1)));
  EXPECT_TRUE(IsLoopback(Six("::1", 1)));
  EXPECT_TRUE(IsLoopback(Six("::ffff:127.0.0.1", 1)));
  EXPECT_FALSE(IsLoopback(Four("0.0.0.0", 1)));
  EXPECT_FALSE(IsLoopback(Six("::", 1)));
  EXPECT_FALSE(IsLoopback(sockaddr_storage{}));
}

TEST(PeerTest, ParseHostPort_TakesTheThreeForms) {
  EXPECT_EQ(ParseHostPort("10.0.0.1:7447")->host, "10.0.0.1");
  EXPECT_EQ(ParseHostPort("10.0.0.1:7447")->port, 7447);
  EXPECT_EQ(ParseHostPort("[::1]:0")->host, "::1");
  EXPECT_EQ(ParseHostPort(":7447")->host, "");
  for (const char* wrong :
       {"", "host", "host:", "host:x", "host:65536", "host:-1", "::1:7447", "[::1]", "[::1:5"}) {
    EXPECT_EQ(ParseHostPort(wrong).status().code(), absl::StatusCode::kInvalidArgument) << wrong;
  }
}

TEST(ConnectTest, PlainText_IsForLoopbackUnlessItIsWrittenOut) {
  EXPECT_EQ(*ChannelTarget("127.0.0.1:7447", false, false), "dns:///127.0.0.1:7447");
  EXPECT_EQ(*ChannelTarget("[::1]:7447", false, false), "dns:///[::1]:7447");
  EXPECT_TRUE(ChannelTarget("localhost:7447", false, false).ok());
  EXPECT_EQ(ChannelTarget("10.0.0.1:7447", false, false).status().code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(ChannelTarget("localhost.example.org:7447", false, false).status().code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(ChannelTarget("10.0.0.1:7447", true, false).ok());
  EXPECT_TRUE(ChannelTarget("10.0.0.1:7447", false, true).ok());
  EXPECT_EQ(ChannelTarget(":7447", true, false).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ChannelTarget("10.0.0.1:0", true, false).status().code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace quantfl::rpc
