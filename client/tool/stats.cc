// kvstow stats: what the daemon holds and has done.
#include <algorithm>
#include <cstdio>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/outcome.h"
#include "client/tool/command.h"
#include "client/tool/format.h"
#include "client/tool/json.h"

namespace kvstow::tool {
namespace {

std::string TierName(v1::Tier tier) {
  switch (tier) {
    case v1::TIER_GPU:
      return "gpu";
    case v1::TIER_HOST:
      return "host";
    default:
      return absl::StrCat("tier ", static_cast<int>(tier));
  }
}

std::string Ratio(double part, double whole) {
  return whole > 0 ? absl::StrFormat("%.2fx", part / whole) : "-";
}

std::string Percent(double part, double whole) {
  return whole > 0 ? absl::StrFormat("%.1f %%", 100 * part / whole) : "-";
}

std::string Tiers(const v1::StatsResponse& stats) {
  Table table({"tier", "blocks", "capacity", "in use", "", "records", "raw KV", "raw/stored"});
  for (const v1::TierStats& t : stats.tiers()) {
    table.Row({TierName(t.tier()), Count(t.blocks()), Bytes(t.capacity_bytes()),
               Bytes(t.physical_bytes()), Percent(t.physical_bytes(), t.capacity_bytes()),
               Bytes(t.record_bytes()), Bytes(t.logical_bytes()),
               Ratio(t.logical_bytes(), t.physical_bytes())});
  }
  return table.Render();
}

std::string Fidelity(const v1::StatsResponse& stats) {
  if (stats.k().tiles() + stats.v().tiles() == 0) return "nothing encoded since the start\n";
  Table table({"encoded", "bits/entry", "NMSE", "centred", "worst centred", "rank", "raw tiles"});
  for (const auto* q : {&stats.k(), &stats.v()}) {
    table.Row({q == &stats.k() ? "K" : "V", absl::StrFormat("%.2f", q->bits_per_entry()),
               Error(q->nmse()), Error(q->centred_nmse()), Error(q->worst_centred_nmse()),
               absl::StrFormat("%.1f", q->rank_mean()), Percent(q->tiles_raw(), q->tiles())});
  }
  return table.Render();
}

std::string ByReason(const char* title, const google::protobuf::Map<std::string, uint64_t>& map) {
  std::vector<std::string> parts;
  for (const auto& [reason, count] : map) {
    if (count > 0) parts.push_back(absl::StrCat(reason, " ", Count(count)));
  }
  std::sort(parts.begin(), parts.end());
  std::string line = title;
  for (const std::string& part : parts) absl::StrAppend(&line, "  ", part);
  return absl::StrCat(line, parts.empty() ? "  none" : "", "\n");
}

std::string Human(const v1::StatsResponse& s) {
  const uint64_t looked_up = s.hit_tokens() + s.miss_tokens();
  std::string out = absl::StrFormat(
      "kvstowd %s, up %s, codec on %s%s\n\n", s.server_version(),
      absl::FormatDuration(absl::Trunc(absl::Seconds(s.uptime_seconds()), absl::Seconds(1))),
      s.codec_device(),
      s.codec_description().empty() ? "" : absl::StrCat(" (", s.codec_description(), ")"));
  absl::StrAppend(&out, Tiers(s), "\n", Fidelity(s), "\n");
  Table table({"blocks", Count(s.visible_blocks())});
  table.Row({"  incomplete, pending",
             absl::StrCat(Count(s.incomplete_blocks()), ", ", Count(s.pending_blocks()))});
  table.Row({"tokens hit", absl::StrCat(Count(s.hit_tokens()), " of ", Count(looked_up), " (",
                                        Percent(s.hit_tokens(), looked_up), ")")});
  table.Row({"sessions", Count(s.sessions())});
  table.Row({"leases", Count(s.leases())});
  table.Row({"  leased", Bytes(s.leased_bytes())});
  table.Row({"  oldest", absl::FormatDuration(absl::Seconds(s.oldest_lease_seconds()))});
  table.Row({"queue depth", Count(s.queue_depth())});
  table.Row({"in flight", Bytes(s.inflight_bytes())});
  table.Row({"checksum failures", Count(s.checksum_failures())});
  absl::StrAppend(&out, table.Render(), ByReason("removed blocks ", s.removed_blocks()),
                  ByReason("refused blocks ", s.refused_blocks()));
  return out;
}

class Stats : public Command {
 public:
  std::string name() const override { return "stats"; }
  std::string summary() const override { return "what the daemon holds and has done"; }
  std::string details() const override {
    return "Examples:\n"
           "  kvstow stats\n"
           "  kvstow stats --watch=2          again every two seconds, until ctrl-C\n"
           "  kvstow stats --json | jq .tiers\n"
           "\"raw KV\" is what the stored blocks decode to; \"in use\" is the memory they take.\n";
  }
  void AddFlags(FlagSet* flags) override {
    flags->Add("json", &json_, "One JSON object a line, message StatsResponse, every field");
    flags->Add("watch", &watch_, "Repeat at this interval, in seconds or as 500ms");
  }

  int Run(const Connection& connection) override {
    v1::Kvstow::Stub stub(connection.MakeChannel());
    while (true) {
      v1::StatsResponse stats;
      grpc::ClientContext context;
      connection.Deadline().ApplyTo(&context);
      absl::Status status = client::FromGrpc(stub.Stats(&context, {}, &stats));
      if (!status.ok()) return Complain(status, connection);
      std::fputs((json_ ? Json(stats) + "\n" : Human(stats)).c_str(), stdout);
      std::fflush(stdout);
      if (watch_ == absl::ZeroDuration()) return kExitOk;
      std::this_thread::sleep_for(absl::ToChronoNanoseconds(watch_));
      if (!json_) std::puts("");
    }
  }

 private:
  bool json_ = false;
  absl::Duration watch_;
};

}  // namespace

std::unique_ptr<Command> MakeStats() { return std::make_unique<Stats>(); }

}  // namespace kvstow::tool
