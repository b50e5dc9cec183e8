#include "common/ledger/energy.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/status.h"

namespace quantfl::ledger {
namespace {

constexpr double kBitsPerByte = 8;
constexpr double kJoulesPerKwh = 3.6e6;
constexpr char kNone[] = "none";

constexpr char kHuang[] =
    "Huang et al., A Close Examination of Performance and Power Characteristics of 4G LTE Networks "
    "(MobiSys 2012): power over throughput, tail, median throughputs of 4GTest";
constexpr char kSx1276[] =
    "Semtech SX1276 data sheet: 29 mA sending at +13 dBm, 11.5 mA receiving, at 3.3 V; bit rate at "
    "125 kHz and coding rate 4/5; radio alone, duty cycle limits not looked at";
constexpr char kSavazzi[] =
    "Savazzi, Kianoush, Rampa, Bennis, A Framework for Energy and Carbon Footprint Analysis of "
    "Distributed and Federated Edge Learning (arXiv 2103.10346, 2021): 50 kbit/J, wireless systems "
    "of "
    "low efficiency, and 200 kbit/J, mesh networks; taken for both directions";

absl::Status Range(absl::string_view key, double value, double min, double max) {
  if (value >= min && value <= max) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(key, " = ", value, ": it is ", min, " to ", max));
}

// LoRa: volts x amperes over the bit rate.
LinkProfile Lora(const char* name, double bits_per_second) {
  return {name, 0, 3.3 * 0.029 / bits_per_second, 3.3 * 0.0115 / bits_per_second, 0, 0, 0, kSx1276};
}

std::optional<double> Sum(const std::optional<double>& a, const std::optional<double>& b) {
  if (!a || !b) return a ? a : b;
  return *a + *b;
}

// The stream, which every link carries; where it was not read, the messages in it.
double Carried(const federation::LevelBytes& bytes) {
  return static_cast<double>(bytes.stream.value_or(bytes.messages));
}

}  // namespace

const std::vector<LinkProfile>& LinkProfiles() {
  static const auto* const kProfiles = new std::vector<LinkProfile>{
      // mW per Mbit/s are nJ a bit.
      {"lte", 1.28804, 438.39e-9, 51.97e-9, 5.64e6, 12.74e6, 1.06 * 11.576, kHuang},
      {"wifi", 0.13286, 283.17e-9, 137.01e-9, 0.94e6, 4.12e6, 0.1193 * 0.2381, kHuang},
      {"nb-iot", 0, 3.6 * 0.220 / 62.5e3, 3.6 * 0.046 / 27.2e3, 0, 0, 0,
       "u-blox SARA-N2 data sheet: 220 mA sending at 23 dBm, 46 mA receiving, at 3.6 V; peak rates "
       "of "
       "Cat NB1 (3GPP Release 13), 62.5 kbit/s up and 27.2 kbit/s down: a lower bound"},
      Lora("lora-sf7", 5469),
      Lora("lora-sf12", 293),
      {"ble", 0, 3 * 0.0053 / 1e6, 3 * 0.0054 / 1e6, 0, 0, 0,
       "Nordic nRF52832 product specification: 5.3 mA sending at 0 dBm, 5.4 mA receiving, at 3 V, "
       "of "
       "the radio alone; 1 Mbit/s: a lower bound"},
      {"20uj-per-bit", 0, 20e-6, 20e-6, 0, 0, 0, kSavazzi},
      {"5uj-per-bit", 0, 5e-6, 5e-6, 0, 0, 0, kSavazzi},
  };
  return *kProfiles;
}

std::vector<std::string> LinkNames() {
  std::vector<std::string> names = {kNone};
  for (const LinkProfile& profile : LinkProfiles()) names.push_back(profile.name);
  return names;
}

absl::StatusOr<LinkProfile> FindLinkProfile(absl::string_view name) {
  for (const LinkProfile& profile : LinkProfiles()) {
    if (profile.name == name) return profile;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("no link profile \"", name, "\": there are ", absl::StrJoin(LinkNames(), ", ")));
}

double LinkJoules(const LinkProfile& profile, double up_bytes, double down_bytes,
                  double transfers) {
  const double up = kBitsPerByte * up_bytes, down = kBitsPerByte * down_bytes;
  double seconds = 0;
  if (profile.up_bps > 0) seconds += up / profile.up_bps;
  if (profile.down_bps > 0) seconds += down / profile.down_bps;
  return profile.active_w * seconds + profile.up_j * up + profile.down_j * down +
         profile.tail_j * transfers;
}

absl::Status Validate(const EnergyModel& model) {
  if (model.link != kNone) QFL_RETURN_IF_ERROR(FindLinkProfile(model.link).status());
  QFL_RETURN_IF_ERROR(Range("energy.cpu_w", model.cpu_w, 1e-6, 10'000));
  return Range("energy.carbon_g_per_kwh", model.carbon_g_per_kwh, 0, 10'000);
}

void AddCompute(const EnergyModel& model, const federation::ComputeUse& use, EnergyUse& energy) {
  energy.cpu_s += use.cpu_s;
  if (use.package_j) {
    energy.compute_measured_j = energy.compute_measured_j.value_or(0) + *use.package_j;
  } else {
    energy.compute_modelled_j = energy.compute_modelled_j.value_or(0) + model.cpu_w * use.cpu_s;
  }
}

void SetLink(const EnergyModel& model, const federation::ByteCounters& bytes, double transfers,
             EnergyUse& energy) {
  const auto profile = FindLinkProfile(model.link);
  energy.link_j.reset();
  if (profile.ok()) {
    energy.link_j = LinkJoules(*profile, Carried(bytes.uplink), Carried(bytes.downlink), transfers);
  }
  const std::optional<double> joules =
      Sum(Sum(energy.compute_measured_j, energy.compute_modelled_j), energy.link_j);
  energy.co2e_g.reset();
  if (joules) energy.co2e_g = *joules / kJoulesPerKwh * model.carbon_g_per_kwh;
}

EnergyUse operator+(const EnergyUse& a, const EnergyUse& b) {
  EnergyUse sum;
  sum.cpu_s = a.cpu_s + b.cpu_s;
  sum.compute_measured_j = Sum(a.compute_measured_j, b.compute_measured_j);
  sum.compute_modelled_j = Sum(a.compute_modelled_j, b.compute_modelled_j);
  sum.link_j = Sum(a.link_j, b.link_j);
  sum.co2e_g = Sum(a.co2e_g, b.co2e_g);
  return sum;
}

std::vector<std::string> EnergySources(const EnergyModel& model) {
  std::vector<std::string> sources;
  if (const auto profile = FindLinkProfile(model.link); profile.ok()) {
    sources.push_back(absl::StrCat("link ", profile->name, ": ", profile->active_w,
                                   " W while it is active, ", profile->up_j, " J a bit up, ",
                                   profile->down_j, " J a bit down, ", profile->tail_j,
                                   " J a transfer. ", profile->source, "."));
  }
  sources.push_back(
      absl::StrCat("computing, measured: a client's share, by CPU time, of what RAPL "
                   "(/sys/class/powercap) counted while it trained; modelled: its CPU "
                   "time x energy.cpu_w = ",
                   model.cpu_w, " W, as configured."));
  sources.push_back(model.carbon_g_per_kwh == kCarbonIntensity
                        ? absl::StrCat(kCarbonSource, ".")
                        : absl::StrCat("carbon: ", model.carbon_g_per_kwh,
                                       " gCO2/kWh, energy.carbon_g_per_kwh as configured."));
  return sources;
}

}  // namespace quantfl::ledger
