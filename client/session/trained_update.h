#ifndef QUANTFL_CLIENT_SESSION_TRAINED_UPDATE_H_
#define QUANTFL_CLIENT_SESSION_TRAINED_UPDATE_H_

#include <string>

#include "common/federation/types.h"

namespace quantfl::session {

// What is known of an update that was trained and encoded, without its chunks: the spool keeps it
// beside them, so that a client that was killed can offer and report it after its restart.
struct TrainedUpdate {
  std::string run_id;
  federation::UpdateOffer offer;
  federation::TrainingReport report;  // `upload` is zero until there is a verdict
};

}  // namespace quantfl::session

#endif  // QUANTFL_CLIENT_SESSION_TRAINED_UPDATE_H_
