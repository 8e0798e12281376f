// kvstow inspect: what the daemon knows of one block.
#include <cstdio>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/convert.h"
#include "client/outcome.h"
#include "client/tool/format.h"
#include "client/tool/space_command.h"

namespace kvstow::tool {
namespace {

std::string CodecName(const v1::CodecSettings& codec) {
  std::string name = v1::CodecId_Name(codec.codec()).substr(6);
  for (char& c : name) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return absl::StrCat(name, " ", codec.k_bits(), "/", codec.v_bits());
}

void Print(const std::string& key, const v1::InspectResponse& r) {
  std::printf("key             %s\nparent          %s\n", key.c_str(),
              r.parent().empty() ? "none" : absl::BytesToHexString(r.parent()).c_str());
  std::printf("first position  %s\nvisible         %s\n", Count(r.first_position()).c_str(),
              r.visible() ? "yes" : "no, shards or the parent are missing");
  std::printf(
      "children        %u\nleases          %u\nhits            %s\nidle            %.1f s\n\n",
      r.children(), r.leases(), Count(r.hits()).c_str(), r.idle_seconds());
  Table table({"shard", "tier", "record", "memory", "raw KV", "codec K/V bits", "bits/entry",
               "K centred", "V NMSE", "checksums"});
  for (const auto& s : r.records()) {
    const double bits = s.entries() > 0 ? 8.0 * s.record_bytes() / s.entries() : 0;
    table.Row({absl::StrCat(s.shard()), s.tier() == v1::TIER_GPU ? "gpu" : "host",
               Bytes(s.record_bytes()), Bytes(s.physical_bytes()), Bytes(s.raw_bytes()),
               CodecName(s.codec()), absl::StrFormat("%.2f", bits), Error(s.k().centred_nmse()),
               Error(s.v().nmse()), s.intact() ? "intact" : absl::StrCat("BAD: ", s.problem())});
  }
  std::fputs(table.Render().c_str(), stdout);
}

class Inspect : public SpaceCommand {
 public:
  std::string name() const override { return "inspect"; }
  std::string summary() const override { return "what the daemon knows of one block"; }
  std::string details() const override {
    return "Parent, position and, for each shard, where its record is, how large, what error it\n"
           "declares, and whether every checksum holds just now.\n\n"
           "Examples:\n"
           "  kvstow inspect --tokens=T.npy --block=3 --space=space.textproto\n"
           "  kvstow inspect --key=HEX --space=space.textproto\n";
  }

  int Run(const Connection& connection) override {
    auto session = SpaceSession::Open(connection, layout().spec(), layout().shard());
    if (!session.ok()) return Complain(session.status(), connection);
    v1::InspectRequest request;
    v1::InspectResponse response;
    request.set_session_id((*session)->session_id());
    request.set_space((*session)->space());
    request.set_key(client::ToBytes(key_));
    grpc::ClientContext context;
    connection.Deadline().ApplyTo(&context);
    absl::Status s = client::FromGrpc((*session)->stub().Inspect(&context, request, &response));
    if (!s.ok()) return Complain(s, connection);
    if (!response.found()) {
      std::printf("%s is not stored\n", Hex(key_).c_str());
      return kExitNo;
    }
    Print(Hex(key_), response);
    return kExitOk;
  }

 protected:
  void AddOwnFlags(FlagSet* flags) override {
    flags->Add("key", &hex_, "The block's key, 64 hexadecimal digits");
    flags->Add("block", &block_, "The prompt's block, with --tokens");
  }
  bool needs_prompt() const override { return hex_.empty(); }
  absl::Status CheckOwn(const FlagSet&) override {
    if (!hex_.empty()) {
      auto key = ParseKey(hex_);
      if (key.ok()) key_ = *key;
      return key.status();
    }
    if (block_ >= keys().size()) {
      return absl::InvalidArgumentError(
          absl::StrCat("--block=", block_, ": the prompt has ", keys().size(), " whole blocks"));
    }
    key_ = keys()[block_];
    return absl::OkStatus();
  }

 private:
  std::string hex_;
  uint32_t block_ = 0;
  BlockKey key_{};
};

}  // namespace

std::unique_ptr<Command> MakeInspect() { return std::make_unique<Inspect>(); }

}  // namespace kvstow::tool
