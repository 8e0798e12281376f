#include "client/bearer_token.h"

#include <fstream>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"

namespace kvstow::client {
namespace {

using grpc::experimental::ClientRpcInfo;
using grpc::experimental::InterceptionHookPoints;
using grpc::experimental::Interceptor;
using grpc::experimental::InterceptorBatchMethods;

constexpr absl::Duration kMaxAge = absl::Seconds(1);

// Thread-safe.
class TokenFile {
 public:
  explicit TokenFile(std::string path) : path_(std::move(path)) {}

  std::string Get() {
    absl::MutexLock lock(&mu_);
    const absl::Time now = absl::Now();
    // Also when the clock was set back.
    if (now < read_at_ || now - read_at_ > kMaxAge) {
      read_at_ = now;
      std::ifstream in(path_);
      std::string line;
      // One that is being replaced may be gone for a moment.
      if (std::getline(in, line)) token_ = std::string(absl::StripAsciiWhitespace(line));
    }
    return token_;
  }

 private:
  const std::string path_;
  absl::Mutex mu_;
  absl::Time read_at_ ABSL_GUARDED_BY(mu_) = absl::InfinitePast();
  std::string token_ ABSL_GUARDED_BY(mu_);
};

class AddToken final : public Interceptor {
 public:
  explicit AddToken(TokenFile* file) : file_(file) {}

  void Intercept(InterceptorBatchMethods* methods) override {
    if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::PRE_SEND_INITIAL_METADATA)) {
      const std::string token = file_->Get();
      if (!token.empty()) {
        methods->GetSendInitialMetadata()->emplace("authorization", absl::StrCat("Bearer ", token));
      }
    }
    methods->Proceed();
  }

 private:
  TokenFile* const file_;
};

class Factory final : public grpc::experimental::ClientInterceptorFactoryInterface {
 public:
  explicit Factory(const std::string& file) : file_(file) {}
  Interceptor* CreateClientInterceptor(ClientRpcInfo*) override { return new AddToken(&file_); }

 private:
  TokenFile file_;
};

}  // namespace

std::unique_ptr<grpc::experimental::ClientInterceptorFactoryInterface> ShowToken(
    const std::string& file) {
  return std::make_unique<Factory>(file);
}

}  // namespace kvstow::client
