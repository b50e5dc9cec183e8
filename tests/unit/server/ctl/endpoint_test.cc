#include "server/ctl/endpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

namespace quantfl::ctl {
namespace {

using ::testing::HasSubstr;

Endpoint Example() {
  return {"127.0.0.1:7447",        "127.0.0.1:7448", getpid(), "/runs/a/state/operator.token", "",
          "http://127.0.0.1:7449/"};
}

TEST(Endpoint, SerializeAndParse_RoundTrip) {
  const auto parsed = ParseEndpoint(SerializeEndpoint(Example()));
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->federation, "127.0.0.1:7447");
  EXPECT_EQ(parsed->operators, "127.0.0.1:7448");
  EXPECT_EQ(parsed->pid, getpid());
  EXPECT_EQ(parsed->operator_token_file, "/runs/a/state/operator.token");
  EXPECT_EQ(parsed->certificate, "");
  EXPECT_EQ(parsed->web, "http://127.0.0.1:7449/");
}

TEST(Endpoint, Parse_WhatIsMissing_IsNamed) {
  for (const char* text : {"", "[]", "{", "null", "\xff"}) {
    EXPECT_EQ(ParseEndpoint(text).status().code(), absl::StatusCode::kDataLoss) << text;
  }
  EXPECT_THAT(std::string(ParseEndpoint(R"({"federation": 3})").status().message()),
              HasSubstr("federation"));
}

TEST(Endpoint, Load_NothingThereOrProcessGone_IsUnavailable) {
  base::MemoryEnv env;
  EXPECT_EQ(LoadEndpoint("endpoint.json", env).status().code(), absl::StatusCode::kUnavailable);
  Endpoint gone = Example();
  gone.pid = INT32_MAX;  // above the kernel's largest
  ASSERT_TRUE(env.WriteFileAtomically("endpoint.json", SerializeEndpoint(gone)).ok());
  EXPECT_EQ(LoadEndpoint("endpoint.json", env).status().code(), absl::StatusCode::kUnavailable);
  ASSERT_TRUE(env.WriteFileAtomically("endpoint.json", SerializeEndpoint(Example())).ok());
  EXPECT_TRUE(LoadEndpoint("endpoint.json", env).ok());
}

TEST(Endpoint, Newest_NoRun_SaysHowToNameOne) {
  const auto found = NewestEndpointFile("/nothing/here");
  EXPECT_EQ(found.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(found.status().message()), HasSubstr("--results-dir"));
}

}  // namespace
}  // namespace quantfl::ctl
