// Shows the daemon who calls: adds "authorization: Bearer <token>" to every call of a channel.
#pragma once

#include <grpcpp/support/client_interceptor.h>

#include <memory>
#include <string>

namespace kvstow::client {

// The token is the file's first line, read again when it is older than a second, so that a rotated
// one is shown from then on. While there is none the calls go without.
std::unique_ptr<grpc::experimental::ClientInterceptorFactoryInterface> ShowToken(
    const std::string& file);

}  // namespace kvstow::client
