// kvstow bench: load against a running daemon.
#include <chrono>
#include <cstdio>
#include <thread>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "client/tool/bench_data.h"
#include "client/tool/bench_worker.h"
#include "client/tool/command.h"
#include "client/tool/format.h"
#include "client/tool/plugin_gpu.h"

namespace kvstow::tool {
namespace {

constexpr size_t kSyntheticBlocks = 2;

double Percentile(const std::vector<double>& sorted, double p) {
  return sorted.empty() ? 0 : sorted[static_cast<size_t>(p * (sorted.size() - 1) + 0.5)];
}

double Mean(double sum, uint64_t count) { return count > 0 ? sum / count : 0; }

std::string Human(const BenchTotals& t, double seconds) {
  Table table({"operation", "count", "failed", "ops/s", "GB/s total", "GB/s while at it", "p50",
               "p90", "p99", "max"});
  for (size_t i = 0; i < t.ops.size(); ++i) {
    const BenchTally& op = t.ops[i];
    if (op.seconds.empty() && op.failures == 0) continue;
    const auto at = [&](double p) { return Millis(absl::Seconds(Percentile(op.seconds, p))); };
    table.Row({kBenchOpNames[i], Count(op.seconds.size()), Count(op.failures),
               absl::StrFormat("%.1f", op.seconds.size() / seconds),
               absl::StrFormat("%.3f", op.bytes / 1e9 / seconds),
               absl::StrFormat("%.3f", op.bytes / 1e9 / std::max(op.busy(), 1e-9)), at(0.5),
               at(0.9), at(0.99), at(1)});
  }
  std::string out = absl::StrCat(table.Render(), "\ndata path: ", Name(t.path));
  for (const BenchOp op : {BenchOp::kPut, BenchOp::kGet}) {
    const BenchTally& tally = t.ops[static_cast<size_t>(op)];
    if (tally.bytes == 0) continue;
    absl::StrAppendFormat(&out, "; %s: %.3f bytes crossed it a raw byte",
                          kBenchOpNames[static_cast<size_t>(op)],
                          Mean(static_cast<double>(tally.crossed), tally.bytes));
  }
  out += "\n";
  if (t.stored_blocks > 0) {
    const uint64_t n = t.stored_blocks;
    absl::StrAppendFormat(
        &out,
        "stored %s blocks, %s as %s, %.2fx smaller\nK %.2f bits an entry, NMSE %.2e, centred "
        "%.2e\nV %.2f bits an entry, NMSE %.2e, centred %.2e\n",
        Count(n), Bytes(t.stored_raw_bytes), Bytes(t.record_bytes),
        Mean(t.stored_raw_bytes, t.record_bytes), Mean(t.k_bits, n), Mean(t.k_nmse, n),
        Mean(t.k_centred, n), Mean(t.v_bits, n), Mean(t.v_nmse, n), Mean(t.v_centred, n));
  }
  const uint64_t declined = t.ops[0].declined_blocks;
  if (declined > 0) absl::StrAppend(&out, Count(declined), " blocks declined by the daemon\n");
  if (!t.first_error.empty()) absl::StrAppend(&out, "first failure: ", t.first_error, "\n");
  return out;
}

std::string Json(const BenchTotals& t, double seconds, absl::string_view data) {
  std::vector<std::string> ops;
  for (size_t i = 0; i < t.ops.size(); ++i) {
    const BenchTally& op = t.ops[i];
    const auto ms = [&](double p) { return 1e3 * Percentile(op.seconds, p); };
    ops.push_back(absl::StrFormat(
        R"("%s":{"count":%d,"failures":%d,"raw_bytes":%d,"crossed_bytes":%d,"gb_per_s":%.4f,"gb_per_s_while_at_it":%.4f,"p50_ms":%.4f,)"
        R"("p90_ms":%.4f,"p99_ms":%.4f,"max_ms":%.4f,"declined_blocks":%d})",
        kBenchOpNames[i], op.seconds.size(), op.failures, op.bytes, op.crossed,
        op.bytes / 1e9 / seconds, op.bytes / 1e9 / std::max(op.busy(), 1e-9), ms(0.5), ms(0.9),
        ms(0.99), ms(1), op.declined_blocks));
  }
  const uint64_t n = t.stored_blocks;
  return absl::StrFormat(
      R"({"data":"%s","path":"%s","seconds":%.3f,%s,"stored_blocks":%d,"stored_raw_bytes":%d,)"
      R"("record_bytes":%d,"k":{"bits_per_entry":%.4f,"nmse":%.6e,"centred_nmse":%.6e},)"
      R"("v":{"bits_per_entry":%.4f,"nmse":%.6e,"centred_nmse":%.6e},"first_failure":"%s"})"
      "\n",
      data, std::string(Name(t.path)), seconds, absl::StrJoin(ops, ","), n, t.stored_raw_bytes,
      t.record_bytes, Mean(t.k_bits, n), Mean(t.k_nmse, n), Mean(t.k_centred, n), Mean(t.v_bits, n),
      Mean(t.v_nmse, n), Mean(t.v_centred, n), absl::CEscape(t.first_error));
}

class Bench : public Command {
 public:
  std::string name() const override { return "bench"; }
  std::string summary() const override { return "put load on a running daemon and measure"; }
  std::string details() const override {
    return "Each thread is a worker with a connection of its own that puts prompts, looks them up "
           "and\n"
           "gets them again. Ends by itself. What it stored is dropped at the end.\n\n"
           "Examples:\n"
           "  kvstow bench --seconds=10 --threads=2\n"
           "  kvstow bench --mix=put,get,get,get,lookup --blocks=16 --layers=32\n"
           "  for p in grpc shm; do kvstow bench --path=$p --codec=raw; done\n"
           "  for c in daemon worker; do kvstow bench --coding=$c; done\n"
           "  kvstow bench --path=cuda     KV in the memory of the daemon's GPU\n"
           "  kvstow bench --trace_k=K.npy --trace_v=V.npy --inv_freq=F.npy --ops=100 --json\n";
  }
  void AddFlags(FlagSet* flags) override {
    flags->Group("Load");
    flags->Add("threads", &threads_, "Workers at a time");
    flags->Add("seconds", &seconds_, "How long");
    flags->Add("ops", &ops_, "Stop after so many operations; 0 for no limit");
    flags->Add("mix", &mix_text_, "Operations in turn, of put, get and lookup");
    flags->Add("blocks", &blocks_, "Blocks a prompt");
    flags->Add("trace_k", &trace_k_, ".npy with real K, as `kvstow put` takes it; else synthetic");
    flags->Add("trace_v", &trace_v_, ".npy with real V");
    flags->Add("json", &json_, "One JSON object");
    flags->Add("keep", &keep_, "Do not drop what was stored");
    flags->Add("gpu_plugin", &gpu_plugin_,
               "For --path=cuda: path of libkvstow_gpu.so, where it is not where kvstowd finds it");
    space_.model = "kvstow-bench";
    space_.Add(flags);
  }

  std::vector<std::string> paths() const override { return {"auto", "grpc", "shm", "cuda"}; }

  absl::Status Check(const FlagSet&) override {
    if (threads_ < 1 || threads_ > 256) return Bad("--threads must be 1 to 256");
    if (blocks_ < 1 || blocks_ > 1024) return Bad("--blocks must be 1 to 1024");
    if (seconds_ <= absl::ZeroDuration()) return Bad("--seconds must be above 0");
    if (absl::Status s = ParseMix(); !s.ok()) return s;
    if (trace_k_.empty() != trace_v_.empty()) return Bad("give --trace_k and --trace_v together");
    if (!trace_k_.empty()) {
      auto arrays = KvArrays::Read(trace_k_, trace_v_);
      if (!arrays.ok()) return arrays.status();
      arrays_.emplace(*std::move(arrays));
    }
    return MakeLayout();
  }

  int Run(const Connection& connection) override {
    ClientOptions options = connection.Options();
    if (options.path == DataPath::kDeviceMemory) {
      if (absl::Status s = OpenGpu(&options); !s.ok()) return NoDeviceMemory(s);
    }
    const BenchData data = arrays_ ? BenchData::FromArrays(*layout_, *arrays_)
                                   : BenchData::Synthetic(*layout_, kSyntheticBlocks);
    const char* kind = arrays_ ? "trace" : "synthetic";
    if (!json_) {
      std::printf("%s KV, %zu layers, %s a block, %u blocks a prompt, %u threads\n\n",
                  arrays_ ? "real (from --trace_k and --trace_v)"
                          : "SYNTHETIC (low rank plus noise; says nothing of a model's error)",
                  layout_->layers().size(), Bytes(layout_->raw_bytes()).c_str(), blocks_, threads_);
      std::fflush(stdout);
    }
    auto workers = MakeWorkers(options, data);
    if (!workers.ok()) return NoDeviceMemory(workers.status());
    const auto start = std::chrono::steady_clock::now();
    BenchTotals totals = RunWorkers(*workers);
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    for (BenchTally& op : totals.ops) std::sort(op.seconds.begin(), op.seconds.end());
    std::fputs((json_ ? Json(totals, took.count(), kind) : Human(totals, took.count())).c_str(),
               stdout);
    return Finish(connection, totals);
  }

 private:
  static absl::Status Bad(absl::string_view what) { return absl::InvalidArgumentError(what); }

  absl::Status ParseMix() {
    for (absl::string_view part : absl::StrSplit(mix_text_, ',')) {
      const auto* name = std::find(kBenchOpNames.begin(), kBenchOpNames.end(), part);
      if (name == kBenchOpNames.end()) return Bad("--mix takes put, get and lookup: put,get,get");
      mix_.push_back(static_cast<BenchOp>(name - kBenchOpNames.begin()));
    }
    return absl::OkStatus();
  }

  absl::Status MakeLayout() {
    SpaceFlags::Known known{8, 8, 128, 128, DType::kFp16};
    if (arrays_) known = arrays_->Shape();
    auto spec = space_.Spec(known);
    if (!spec.ok()) return spec.status();
    auto shard = space_.MakeShard();
    if (!shard.ok()) return shard.status();
    auto layout = PlaneLayout::Create(*spec, *shard);
    if (!layout.ok()) return layout.status();
    layout_.emplace(*std::move(layout));
    if (!arrays_) return absl::OkStatus();
    if (arrays_->tokens() < spec->block_tokens) return Bad("the trace is shorter than one block");
    return arrays_->Check(*layout_);
  }

  // Before anything is measured: on this path or not at all.
  absl::Status OpenGpu(ClientOptions* options) {
    auto gpu = PluginGpu::Open(gpu_plugin_);
    if (!gpu.ok()) return gpu.status();
    gpu_ = *std::move(gpu);
    options->gpu = gpu_;
    return TryDeviceMemory(*options);
  }

  static int NoDeviceMemory(const absl::Status& why) {
    std::fprintf(stderr,
                 "kvstow: no device memory for --path=cuda: %s; `kvstow doctor` says more\n",
                 std::string(why.message()).c_str());
    return kExitFailed;
  }

  using Workers = std::vector<std::unique_ptr<BenchWorker>>;
  absl::StatusOr<Workers> MakeWorkers(const ClientOptions& options, const BenchData& data) const {
    const uint32_t seed = static_cast<uint32_t>(std::random_device()());
    Workers workers;
    for (uint32_t t = 0; t < threads_; ++t) {
      std::unique_ptr<BenchKv> kv = MakeHostKv(*layout_, &data);
      if (gpu_ != nullptr) {
        auto on_device = MakeDeviceKv(gpu_, *layout_, &data, blocks_);
        if (!on_device.ok()) return on_device.status();
        kv = *std::move(on_device);
      }
      workers.push_back(
          std::make_unique<BenchWorker>(options, *layout_, std::move(kv), mix_, blocks_, seed + t));
    }
    return workers;
  }

  BenchTotals RunWorkers(const Workers& workers) const {
    const BenchWorker::Limits limits{
        std::chrono::steady_clock::now() + absl::ToChronoNanoseconds(seconds_), ops_};
    std::atomic<uint64_t> ops{0};
    std::vector<std::thread> threads;
    for (const auto& worker : workers) {
      threads.emplace_back([&worker, &limits, &ops] { worker->Run(limits, &ops); });
    }
    BenchTotals totals;
    for (size_t t = 0; t < workers.size(); ++t) {
      threads[t].join();
      totals.Add(workers[t]->totals());
    }
    return totals;
  }

  int Finish(const Connection& connection, const BenchTotals& totals) {
    if (totals.ops[0].seconds.empty()) {
      return Complain(absl::UnavailableError(totals.first_error), connection);
    }
    if (!keep_) {
      auto client = connection.MakeClient();
      client->OpenSpace(layout_->spec(), layout_->shard()).value()->DropAll().IgnoreError();
    }
    return totals.stored_blocks > 0 ? kExitOk : kExitNo;
  }

  uint32_t threads_ = 2, blocks_ = 8;
  absl::Duration seconds_ = absl::Seconds(10);
  uint64_t ops_ = 0;
  std::string mix_text_ = "put,lookup,get", trace_k_, trace_v_;
  bool json_ = false, keep_ = false;
  std::string gpu_plugin_;
  SpaceFlags space_;

  std::vector<BenchOp> mix_;
  std::optional<KvArrays> arrays_;
  std::optional<PlaneLayout> layout_;
  std::shared_ptr<PluginGpu> gpu_;  // with --path=cuda
};

}  // namespace

std::unique_ptr<Command> MakeBench() { return std::make_unique<Bench>(); }

}  // namespace kvstow::tool
