// fuzz_seeds FOLDER: writes the seeds of every fuzz target below FOLDER.

#include <cstdio>
#include <iterator>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/env.h"
#include "common/codec/context_fit.h"
#include "common/codec/rans.h"
#include "common/codec/update.h"
#include "tests/fuzz/fuzz_support.h"
#ifdef QUANTFL_HAVE_MODEL
#include "common/model/safetensors.h"
#endif

namespace quantfl::fuzz {
namespace {

class Corpus {
 public:
  explicit Corpus(std::string folder) : folder_(std::move(folder)) {}

  void Add(absl::string_view target, absl::string_view name, absl::string_view bytes) {
    const std::string folder = absl::StrCat(folder_, "/", target);
    base::Env& env = base::PosixEnv();
    status_.Update(env.CreateDirs(folder));
    status_.Update(env.CreateDirs(absl::StrCat(folder_, "/found/", target)));
    status_.Update(env.WriteFileAtomically(absl::StrCat(folder, "/", name), bytes));
  }
  const absl::Status& status() const { return status_; }

 private:
  std::string folder_;
  absl::Status status_;
};

void AddUpdates(Corpus& corpus) {
  std::vector<std::string> specs = {"bu:2", "bu:16", "bu:200", "bu:256", "bq:256"};
  for (const char* spec : kChunkSpecs) specs.emplace_back(spec);
  for (const std::string& spec : specs) {
    const codec::EncodedUpdate update =
        *codec::Encode(Reference().delta, ReferenceLayout(), *codec::ParseSpec(spec), {});
    corpus.Add("update_header", spec, update.header);
    corpus.Add("update_file", spec, codec::SerializeUpdate(update));
  }
  // Which header, then the chunk: see fuzz_update_chunk.cc.
  for (size_t i = 0; i < std::size(kChunkSpecs); ++i) {
    const codec::EncodedUpdate update =
        *codec::Encode(Reference().delta, ReferenceLayout(), *codec::ParseSpec(kChunkSpecs[i]), {});
    corpus.Add("update_chunk", kChunkSpecs[i],
               absl::StrCat(std::string(1, static_cast<char>(i)), update.chunks[0]));
  }
}

void AddRans(Corpus& corpus) {
  // Levels, classes, tens of codes, then the stream or the codes: see fuzz_rans.cc.
  for (const int class_count : {1, 4}) {
    for (const int levels : {2, 16, 256}) {
      std::vector<uint8_t> codes(200);
      std::vector<uint8_t> classes(codes.size());
      for (size_t i = 0; i < codes.size(); ++i) {
        codes[i] = static_cast<uint8_t>(i * i % 7 * i % static_cast<size_t>(levels));
        classes[i] = static_cast<uint8_t>(i % static_cast<size_t>(class_count));
      }
      const std::string front = {static_cast<char>(levels - 1), static_cast<char>(class_count - 1),
                                 20};
      corpus.Add(
          "rans", absl::StrCat(levels, "_", class_count),
          absl::StrCat(front,
                       codec::RansEncode(codes, classes, class_count, levels, 1 << 16)->bytes));
    }
  }
}

void AddContexts(Corpus& corpus) {
  // See fuzz_contexts.cc for the byte in front.
  const codec::Layout& layout = ContextLayout();
  for (size_t i = 0; i < std::size(kContextSpecs); ++i) {
    const codec::Spec spec = *codec::ParseSpec(kContextSpecs[i]);
    std::vector<uint8_t> codes(layout.n());
    for (size_t j = 0; j < codes.size(); ++j) {
      codes[j] = static_cast<uint8_t>(j * j % 11 * (1 + j / 12 % 3) % spec.levels);
    }
    const auto fit = codec::FitContexts(codes, layout, spec);
    corpus.Add("contexts", absl::StrCat("section_", kContextSpecs[i]),
               absl::StrCat(std::string(1, static_cast<char>(i)), fit->section));
    corpus.Add("contexts", absl::StrCat("codes_", kContextSpecs[i]),
               absl::StrCat(std::string(1, static_cast<char>(128 + i)),
                            std::string(codes.begin(), codes.end())));
  }
}

void AddKernels(Corpus& corpus) {
  // What is compared, levels, the size of blocks, values: see fuzz_kernels.cc.
  const std::vector<float>& delta = Reference().delta;
  const absl::string_view values(reinterpret_cast<const char*>(delta.data()),
                                 delta.size() * sizeof(float));
  for (char what = 0; what < 5; ++what) {
    for (const char levels : {char{3}, char{15}, char{99}}) {
      corpus.Add("kernels", absl::StrCat(int{what}, "_", int{levels}),
                 absl::StrCat(std::string({what, levels, what}), values));
    }
  }
  std::vector<uint8_t> codes(1000);
  for (size_t i = 0; i < codes.size(); ++i) codes[i] = static_cast<uint8_t>(i * i % 16);
  corpus.Add(
      "kernels", "rans",
      absl::StrCat(std::string({3, 15, 0}), codec::RansEncode(codes, {}, 1, 16, 4096)->bytes));
}

void AddRates(Corpus& corpus) {
  // Which spec, a limit, values: see fuzz_rate.cc.
  const std::vector<float>& delta = Reference().delta;
  const absl::string_view values(reinterpret_cast<const char*>(delta.data()),
                                 delta.size() * sizeof(float));
  for (int choice = 0; choice < 256; choice += 7) {
    for (const char limit : {char{1}, char{100}}) {
      corpus.Add("rate", absl::StrCat(choice, "_", int{limit}),
                 absl::StrCat(std::string({static_cast<char>(choice), limit, 0}), values));
    }
  }
}

#ifdef QUANTFL_HAVE_MODEL
void AddModels(Corpus& corpus) {
  using model::Policy;
  const model::Schema schema =
      *model::Schema::Create("tiny", {{"conv.weight", {2, 1, 3, 3}, Policy::kQuantise},
                                      {"bn.running_mean", {2}, Policy::kFp32},
                                      {"bn.num_batches_tracked", {}, Policy::kSkip}});
  corpus.Add("schema", "tiny", schema.CanonicalBytes());
  corpus.Add("safetensors", "tiny",
             model::SerializeSafetensors(schema, std::vector<float>(schema.size(), 0.5f),
                                         {{"format", "pt"}}));
}
#endif

void AddIdx(Corpus& corpus) {
  const std::string labels("\0\0\x08\x01\0\0\0\x02\x03\x07", 10);
  const std::string images("\0\0\x08\x03\0\0\0\x02\0\0\0\x01\0\0\0\x02\x01\x02\x03\x04", 20);
  corpus.Add("idx", "two",
             absl::StrCat(std::string(1, static_cast<char>(labels.size())), labels, images));
  // gzip of nothing.
  corpus.Add("idx", "gzip",
             absl::string_view("\x1f\x8b\x08\0\0\0\0\0\0\x03\x03\0\0\0\0\0\0\0\0\0", 20));
}

}  // namespace
}  // namespace quantfl::fuzz

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: fuzz_seeds FOLDER\n");
    return 2;
  }
  quantfl::fuzz::Corpus corpus(argv[1]);
  quantfl::fuzz::AddUpdates(corpus);
#ifdef QUANTFL_HAVE_MODEL
  quantfl::fuzz::AddModels(corpus);
#endif
  quantfl::fuzz::AddIdx(corpus);
  quantfl::fuzz::AddRans(corpus);
  quantfl::fuzz::AddRates(corpus);
  quantfl::fuzz::AddContexts(corpus);
  quantfl::fuzz::AddKernels(corpus);
  if (!corpus.status().ok()) {
    std::fprintf(stderr, "%s\n", corpus.status().ToString().c_str());
    return 1;
  }
  return 0;
}
