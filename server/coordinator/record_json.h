#ifndef QUANTFL_SERVER_COORDINATOR_RECORD_JSON_H_
#define QUANTFL_SERVER_COORDINATOR_RECORD_JSON_H_

// JSON of records: for summary.json, and for what a store keeps of them.

#include <cmath>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "nlohmann/json.hpp"
#include "server/coordinator/coordinator.h"
#include "server/coordinator/record_fields.h"

namespace quantfl::coordinator {

using Json = nlohmann::ordered_json;

// JSON has no infinities.
inline Json Number(double value) { return std::isfinite(value) ? Json(value) : Json(nullptr); }
template <typename T>
Json Maybe(const std::optional<T>& value) {
  return value ? Json(*value) : Json(nullptr);
}

// An object with a key for each field; null where one is absent.
template <typename Record>
Json FieldsToJson(const Record& record) {
  Json json = Json::object();
  VisitFields(record, [&json](const char* name, const auto& value) {
    if constexpr (requires { value.has_value(); }) {
      json[name] = Maybe(value);
    } else {
      json[name] = value;
    }
  });
  return json;
}
Json ToJson(const federation::ByteCounters& counters);
Json ToJson(const RoundRecord& record);

// Reads an object's values; the first that is missing or of a wrong kind is remembered.
class JsonReader {
 public:
  explicit JsonReader(const std::string& text) : json_(Json::parse(text, nullptr, false)) {}
  explicit JsonReader(Json json) : json_(std::move(json)) {}

  bool Has(const char* key) const { return json_.is_object() && json_.contains(key); }
  void Get(const char* key, bool& value);
  void Get(const char* key, uint32_t& value);
  void Get(const char* key, uint64_t& value);
  void Get(const char* key, double& value);  // null, which is not finite, leaves it
  void Get(const char* key, std::string& value);
  void Get(const char* key, base::RoundId& value);
  void Get(const char* key, absl::Duration& value);  // seconds
  void Get(const char* key, base::Digest& value);
  void Get(const char* key, federation::ByteCounters& value);
  template <typename T>
  void Get(const char* key, std::optional<T>& value) {
    const Json* found = Find(key);
    if (found == nullptr) return;
    if (found->is_null()) return value.reset();
    T read{};
    Get(key, read);
    value = read;
  }
  // What FieldsToJson wrote.
  template <typename Record>
  requires requires(Record& r) {
    VisitFields(r, [](const char*, auto&) {});
  }
  void Get(const char* key, Record& value) {
    JsonReader object = Object(key);
    VisitFields(value, [&object](const char* name, auto& field) { object.Get(name, field); });
    Join(object);
  }
  void Read(federation::ByteCounters& value);

  JsonReader Object(const char* key);
  void Join(const JsonReader& other) { status_.Update(other.status_); }
  const absl::Status& status() const { return status_; }

 private:
  const Json* Find(const char* key);
  void Fail(const char* key);

  Json json_;
  absl::Status status_;
};

}  // namespace quantfl::coordinator

#endif  // QUANTFL_SERVER_COORDINATOR_RECORD_JSON_H_
