#ifndef QUANTFL_COMMON_CERTS_OPENSSL_H_
#define QUANTFL_COMMON_CERTS_OPENSSL_H_

// OpenSSL's objects with owners. For this folder's sources alone.

#include <openssl/bio.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>

#include <memory>
#include <string>

#include "absl/strings/string_view.h"

namespace quantfl::certs {

template <typename T, void (*free)(T*)>
struct Free {
  void operator()(T* t) const { free(t); }
};
using X509Ptr = std::unique_ptr<X509, Free<X509, X509_free>>;
using KeyPtr = std::unique_ptr<EVP_PKEY, Free<EVP_PKEY, EVP_PKEY_free>>;
using BioPtr = std::unique_ptr<BIO, Free<BIO, BIO_free_all>>;
using StorePtr = std::unique_ptr<X509_STORE, Free<X509_STORE, X509_STORE_free>>;
using StoreContextPtr = std::unique_ptr<X509_STORE_CTX, Free<X509_STORE_CTX, X509_STORE_CTX_free>>;

struct FreeNames {
  void operator()(GENERAL_NAMES* names) const { GENERAL_NAMES_free(names); }
};
using NamesPtr = std::unique_ptr<GENERAL_NAMES, FreeNames>;
struct FreeStack {
  void operator()(STACK_OF(X509) * stack) const { sk_X509_pop_free(stack, X509_free); }
};
using StackPtr = std::unique_ptr<STACK_OF(X509), FreeStack>;

// `text` outlives what is returned.
inline BioPtr View(absl::string_view text) {
  return BioPtr(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
}
inline BioPtr NewBio() { return BioPtr(BIO_new(BIO_s_mem())); }
inline std::string Contents(BIO* bio) {
  char* data = nullptr;
  const long size = BIO_get_mem_data(bio, &data);
  return std::string(data, static_cast<size_t>(size));
}

// A key with a passphrase would be asked for on the terminal.
inline int NoPassphrase(char*, int, int, void*) { return 0; }

}  // namespace quantfl::certs

#endif  // QUANTFL_COMMON_CERTS_OPENSSL_H_
