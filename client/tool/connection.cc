#include "client/tool/connection.h"

#include <stdlib.h>

#include <algorithm>
#include <cstdio>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/channel.h"
#include "client/convert.h"
#include "client/kvstow/coding.h"
#include "client/outcome.h"
#include "client/tool/exit_code.h"

namespace kvstow::tool {

namespace {

std::string FromEnvironment(const char* name, const std::string& otherwise) {
  const char* value = getenv(name);
  return value != nullptr ? value : otherwise;
}

}  // namespace

Connection::Connection() {
  target = FromEnvironment("KVSTOW_TARGET", ClientOptions().target);
  security.ca_file = FromEnvironment("KVSTOW_TLS_CA", "");
  security.certificate_file = FromEnvironment("KVSTOW_TLS_CERTIFICATE", "");
  security.key_file = FromEnvironment("KVSTOW_TLS_KEY", "");
  security.token_file = FromEnvironment("KVSTOW_TOKEN_FILE", "");
}

void Connection::AddFlags(FlagSet* flags, std::vector<std::string> paths) {
  flags->Group("Connection");
  flags->Add("target", &target,
             "Where the daemon listens: unix:PATH or HOST:PORT. $KVSTOW_TARGET sets the default");
  const bool names_device =
      std::find(paths.begin(), paths.end(), Name(DataPath::kDeviceMemory)) != paths.end();
  flags->Add("path", &path, std::move(paths),
             absl::StrCat("How KV travels: in the stream (grpc), or through memory shared with a "
                          "daemon on this host (shm)",
                          names_device ? ", or on this GPU (cuda)" : ""));
  flags->Add("coding", &coding, {"daemon", "worker"},
             "Who encodes and decodes KV: with worker it travels encoded, a seventh of the bytes");
  flags->Add(
      "tls_ca", &security.ca_file,
      "PEM file of the CA that signed the daemon's certificate; TCP then uses TLS. $KVSTOW_TLS_CA "
      "sets the default");
  flags->Add(
      "tls_certificate", &security.certificate_file,
      "PEM file of the client certificate to show. $KVSTOW_TLS_CERTIFICATE sets the default");
  flags->Add("tls_key", &security.key_file, "And of its key. $KVSTOW_TLS_KEY sets the default");
  flags->Add("tls_server_name", &security.server_name,
             "Name in the daemon's certificate, where it is not the target's host");
  flags->Add("token_file", &security.token_file,
             "File whose first line is the bearer token to show. $KVSTOW_TOKEN_FILE sets the "
             "default");
  flags->Add("deadline", &deadline, "Longest that a call may take, 500ms or 30s say");
}

absl::Status Connection::Check() const {
  if (path == Name(DataPath::kDeviceMemory) && coding == "worker") {
    return absl::InvalidArgumentError(
        "--path=cuda goes with --coding=daemon: the tool codes on the CPU");
  }
  return client::CheckSecurity(target, security);
}

ClientOptions Connection::Options() const {
  ClientOptions options;
  options.target = target;
  options.client_name = "kvstow";
  options.security = security;
  for (const DataPath each : {DataPath::kGrpc, DataPath::kSharedMemory, DataPath::kDeviceMemory}) {
    if (path == Name(each)) options.path = each;
  }
  if (coding == "worker") options.coder = MakeCpuCoder();
  options.lookup_deadline = options.get_deadline = options.put_deadline = deadline;
  options.control_deadline = options.connect_wait = deadline;
  return options;
}

std::unique_ptr<Client> Connection::MakeClient(double prefill_rate) const {
  ClientOptions options = Options();
  options.prefill_tokens_per_second = prefill_rate;
  return Client::Create(options);
}

std::shared_ptr<grpc::Channel> Connection::MakeChannel() const {
  return client::MakeChannel(target, security);
}

SpaceSession::SpaceSession(std::shared_ptr<grpc::Channel> channel)
    : stub_(channel), keeper_(channel, {.client_name = "kvstow", .connect_wait = absl::Hours(1)}) {}

absl::StatusOr<std::unique_ptr<SpaceSession>> SpaceSession::Open(const Connection& connection,
                                                                 const SpaceSpec& spec,
                                                                 const Shard& shard) {
  const client::Deadline deadline = connection.Deadline();
  std::unique_ptr<SpaceSession> session(new SpaceSession(connection.MakeChannel()));
  auto current = session->keeper_.Get(deadline);
  if (!current.ok()) return current.status();
  session->session_id_ = current->id;
  if (absl::Status s = session->OpenSpace(deadline, spec, shard); !s.ok()) return s;
  return session;
}

absl::Status SpaceSession::OpenSpace(const client::Deadline& deadline, const SpaceSpec& spec,
                                     const Shard& shard) {
  v1::OpenSpaceRequest request;
  v1::OpenSpaceResponse response;
  request.set_session_id(session_id_);
  *request.mutable_spec() = client::ToProto(spec);
  *request.mutable_shard() = client::ToProto(shard);
  grpc::ClientContext context;
  deadline.ApplyTo(&context);
  absl::Status status = client::FromGrpc(stub_.OpenSpace(&context, request, &response));
  space_ = response.space();
  return status;
}

int Complain(const absl::Status& status, const Connection& connection) {
  const std::string message(status.message());
  switch (status.code()) {
    case absl::StatusCode::kUnavailable:
      std::fprintf(stderr,
                   "kvstow: no daemon at %s: start kvstowd, or say where it listens with --target "
                   "or $KVSTOW_TARGET\n  (%s)\n",
                   connection.target.c_str(), message.c_str());
      break;
    case absl::StatusCode::kUnauthenticated:
      std::fprintf(
          stderr,
          "kvstow: the daemon at %s does not know who calls: give --token_file, or --tls_ca "
          "with --tls_certificate and --tls_key\n  (%s)\n",
          connection.target.c_str(), message.c_str());
      break;
    case absl::StatusCode::kDeadlineExceeded:
      std::fprintf(stderr,
                   "kvstow: the daemon at %s did not answer within %s: look at its logs, or give "
                   "it more time with --deadline\n  (%s)\n",
                   connection.target.c_str(), absl::FormatDuration(connection.deadline).c_str(),
                   message.c_str());
      break;
    default:
      std::fprintf(stderr, "kvstow: %s: %s\n", absl::StatusCodeToString(status.code()).c_str(),
                   message.c_str());
  }
  return kExitFailed;
}

}  // namespace kvstow::tool
