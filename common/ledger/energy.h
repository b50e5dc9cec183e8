#ifndef QUANTFL_COMMON_LEDGER_ENERGY_H_
#define QUANTFL_COMMON_LEDGER_ENERGY_H_

// What bytes and computing cost in joules and grams of CO2. What a link costs is always modelled,
// from a profile whose constants name their source; what computing costs is measured where a client
// could read its processors' counters (compute_meter.h), else modelled from its CPU time.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/federation/types.h"

namespace quantfl::ledger {

// A device's radio:  E = active_w * T + up * bits_up + down * bits_down + tail_j * transfers,
// where T = bits_up / up_bps + bits_down / down_bps. A profile with the energy of a whole bit has
// active_w = 0 and needs no rates.
struct LinkProfile {
  std::string name;
  double active_w = 0;          // while it sends or receives, whatever the rate
  double up_j = 0, down_j = 0;  // of a bit
  double up_bps = 0, down_bps = 0;
  double tail_j = 0;  // after a transfer, until the radio sleeps
  std::string source;
};
const std::vector<LinkProfile>& LinkProfiles();
// Their names, behind "none".
std::vector<std::string> LinkNames();
// INVALID_ARGUMENT lists the names.
absl::StatusOr<LinkProfile> FindLinkProfile(absl::string_view name);

//   transfers  bursts after which the radio falls asleep: of a round two, the model and the update
double LinkJoules(const LinkProfile& profile, double up_bytes, double down_bytes, double transfers);

inline constexpr double kCarbonIntensity = 475;  // gCO2 per kWh
inline constexpr char kCarbonSource[] =
    "carbon: 475 gCO2/kWh, world average of 2018 (IEA, Global Energy and CO2 Status Report 2019)";

struct EnergyModel {
  std::string link = "none";                   // of LinkNames
  double cpu_w = 5;                            // of one busy core, (0, 10000]
  double carbon_g_per_kwh = kCarbonIntensity;  // [0, 10000]
};
// INVALID_ARGUMENT naming key, value and range.
absl::Status Validate(const EnergyModel& model);

// Joules of clients. Absent: no link profile; nobody who reported could, or had to, be counted so.
struct EnergyUse {
  double cpu_s = 0;
  std::optional<double> compute_measured_j, compute_modelled_j, link_j, co2e_g;
  friend bool operator==(const EnergyUse&, const EnergyUse&) = default;
};
// One client's report.
void AddCompute(const EnergyModel& model, const federation::ComputeUse& use, EnergyUse& energy);
// What was carried, of the lowest level that could be read, and with it `co2e_g`. Call it last.
void SetLink(const EnergyModel& model, const federation::ByteCounters& bytes, double transfers,
             EnergyUse& energy);
EnergyUse operator+(const EnergyUse& a, const EnergyUse& b);

// One line for each constant that `model` stands on.
std::vector<std::string> EnergySources(const EnergyModel& model);

}  // namespace quantfl::ledger

#endif  // QUANTFL_COMMON_LEDGER_ENERGY_H_
