// Listens on Unix and TCP sockets and hands out what connects.
//
// gRPC 1.51 can listen itself, and stops for ever at the first accept() that finds no free file
// descriptor: connections that do nothing would take a daemon off the air until its restart. Here
// the last descriptors are kept for the daemon's own work: a connection that would take one is
// closed at once, counted, and those that are there go on.
//
// Thread-safe once it listens. Owns a thread.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace kvstow {

class ConnectionListener {
 public:
  // Of the process: files, shared memory, metrics. Without them nothing works.
  static constexpr int kReservedDescriptors = 64;

  // Takes a connected, non-blocking descriptor for its own. Called on the listener's thread.
  using Take = std::function<void(int connection)>;

  ConnectionListener() = default;
  ~ConnectionListener();
  ConnectionListener(const ConnectionListener&) = delete;

  // ---- Before Start() ----

  // A socket at `path`, where nothing is, with mode 0660. UNAVAILABLE says why not.
  absl::Status ListenUnix(const std::string& path, Take take);
  // At every address of "host:port"; port 0 takes a free one. Returns the port. UNAVAILABLE when
  // none can be had.
  absl::StatusOr<int> ListenTcp(const std::string& address, Take take);

  // Begins to accept.
  void Start();
  // Accepts no more, and removes the Unix socket. Idempotent.
  void Stop();

  // Connections that were closed for want of descriptors.
  uint64_t refused() const { return refused_; }

 private:
  struct Listening {
    int fd;
    int send_bytes;  // that its connections buffer; 0 leaves that to the kernel
    Take take;
  };

  void Loop();
  void Accept(const Listening& from);
  void Rest() const;

  std::vector<Listening> listening_;
  std::string unix_path_;
  int stop_ = -1;
  std::atomic<uint64_t> refused_{0};
  std::thread thread_;
};

}  // namespace kvstow
