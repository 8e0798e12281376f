// Where calls go that their caller no longer waits for. gRPC holds on to a write until the bytes
// have left the process: with a stopped daemon and a full socket that is after any deadline. The
// caller leaves then, and what gRPC still refers to must live on until gRPC is done with it.
#pragma once

#include <memory>

namespace kvstow::client {

class Buried {
 public:
  virtual ~Buried() = default;
  // Waits a moment; true once gRPC has let go of everything, so that this can be destroyed.
  virtual bool TryFinish() = 0;
};

// Takes the call over; a thread of its own, started with the first, sees it to its end.
// Thread-safe.
void Bury(std::unique_ptr<Buried> call);

}  // namespace kvstow::client
