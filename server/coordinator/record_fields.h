#ifndef QUANTFL_SERVER_COORDINATOR_RECORD_FIELDS_H_
#define QUANTFL_SERVER_COORDINATOR_RECORD_FIELDS_H_

// The fields of what records itemise, each with its name, once for tables, JSON and what is kept.
// `visit(name, field)` is called for each of them, in the order of the columns.

#include <type_traits>

#include "common/codec/update.h"
#include "common/federation/types.h"
#include "common/ledger/energy.h"

namespace quantfl::coordinator {

// Whether T is `Field`, const or not.
template <typename T, typename Field>
inline constexpr bool kIs = std::is_same_v<std::remove_const_t<T>, Field>;

template <typename Bytes, typename Visit>
requires kIs<Bytes, federation::LevelBytes>
void VisitFields(Bytes& bytes, Visit visit) {
  visit("payload_bytes", bytes.payload);
  visit("messages_bytes", bytes.messages);
  visit("stream_bytes", bytes.stream);
  visit("tcp_bytes", bytes.tcp);
  visit("link_bytes", bytes.link);
}

template <typename Payload, typename Visit>
requires kIs<Payload, codec::PayloadBytes>
void VisitFields(Payload& payload, Visit visit) {
  visit("codes_bytes", payload.codes);
  visit("tables_bytes", payload.tables);
  visit("side_information_bytes", payload.side_information);
  visit("headers_bytes", payload.headers);
}

inline void AddPayload(codec::PayloadBytes& sum, const codec::PayloadBytes& more) {
  sum.codes += more.codes;
  sum.tables += more.tables;
  sum.side_information += more.side_information;
  sum.headers += more.headers;
}

template <typename Energy, typename Visit>
requires kIs<Energy, ledger::EnergyUse>
void VisitFields(Energy& energy, Visit visit) {
  visit("cpu_s", energy.cpu_s);
  visit("compute_measured_j", energy.compute_measured_j);
  visit("compute_modelled_j", energy.compute_modelled_j);
  visit("link_modelled_j", energy.link_j);
  visit("co2e_modelled_g", energy.co2e_g);
}

}  // namespace quantfl::coordinator

#endif  // QUANTFL_SERVER_COORDINATOR_RECORD_FIELDS_H_
