#ifndef QUANTFL_TESTS_UNIT_COMMON_RPC_TEST_CERTIFICATE_H_
#define QUANTFL_TESTS_UNIT_COMMON_RPC_TEST_CERTIFICATE_H_

#include <string>

namespace quantfl::testing {

// A self-signed certificate for localhost and 127.0.0.1, its own root, and its key; PEM.
struct TestCertificate {
  std::string certificate;
  std::string private_key;
};
TestCertificate MakeTestCertificate();

}  // namespace quantfl::testing

#endif  // QUANTFL_TESTS_UNIT_COMMON_RPC_TEST_CERTIFICATE_H_
