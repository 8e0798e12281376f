// kvstow put: stores the KV of one prompt from .npy arrays.
#include <chrono>
#include <cstdio>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/tool/command.h"
#include "client/tool/format.h"
#include "client/tool/kv_arrays.h"
#include "client/tool/prompt_flags.h"
#include "client/tool/space_flags.h"

namespace kvstow::tool {
namespace {

using Outcome = PutBlocksResult::Outcome;

std::string Bits(const Fidelity& f) { return absl::StrFormat("%.2f", f.bits_per_entry); }

std::vector<std::string> BlockRow(size_t index, const PutBlocksResult::Block& b, size_t raw_bytes) {
  if (b.outcome == Outcome::kExisted) return {absl::StrCat(index), "existed"};
  if (b.outcome == Outcome::kNotStored) {
    return {absl::StrCat(index), b.refusal.empty() ? "not stored" : "declined: " + b.refusal};
  }
  return {absl::StrCat(index), "stored",
          Bytes(raw_bytes),    Bytes(b.record_bytes),
          Bits(b.k),           Bits(b.v),
          Error(b.k.nmse),     Error(b.k.centred_nmse),
          Error(b.v.nmse),     Error(b.v.centred_nmse)};
}

void Print(const PutBlocksResult& result, const PlaneLayout& layout, double seconds) {
  Table table({"block", "outcome", "raw", "stored as", "K bits", "V bits", "K NMSE", "K centred",
               "V NMSE", "V centred"});
  for (size_t b = 0; b < result.blocks.size(); ++b) {
    table.Row(BlockRow(b, result.blocks[b], layout.raw_bytes()));
  }
  if (result.stored > 0) {
    table.Row({"all", absl::StrCat(result.stored, " stored"),
               Bytes(result.stored * layout.raw_bytes()), Bytes(result.record_bytes),
               Bits(result.k), Bits(result.v), Error(result.k.nmse), Error(result.k.centred_nmse),
               Error(result.v.nmse), Error(result.v.centred_nmse)});
  }
  std::printf("%s\n%zu stored, %zu existed, %zu not stored", table.Render().c_str(), result.stored,
              result.existed, result.blocks.size() - result.stored - result.existed);
  if (result.stored > 0) {
    const auto raw = static_cast<double>(result.stored * layout.raw_bytes());
    std::printf("; %.2fx smaller; %.1f MB/s of raw KV in %.3f s", raw / result.record_bytes,
                raw / 1e6 / seconds, seconds);
  }
  std::printf("\n");
}

class Put : public Command {
 public:
  std::string name() const override { return "put"; }
  std::string summary() const override { return "store the KV of a prompt from .npy arrays"; }
  std::string details() const override {
    return "Puts all whole blocks of the prompt; the tail shorter than a block is left out. What "
           "is\n"
           "stored already is not sent again. Layout flags default to the arrays' shape.\n\n"
           "Examples:\n"
           "  kvstow put --k=K.npy --v=V.npy --tokens=T.npy --model=org/model --inv_freq=F.npy\n"
           "  kvstow put --k=K.npy --v=V.npy --tokens=T.npy --model=org/model --bits=3 "
           "--write_space=space.textproto\n"
           "  kvstow put --k=K.npy --v=V.npy --tokens=T.npy --space=space.textproto\n";
  }
  void AddFlags(FlagSet* flags) override {
    flags->Group("Arrays");
    flags->Add("k", &k_, ".npy [layers, heads, tokens, dim] of float16, bfloat16 or float32");
    flags->Add("v", &v_, "The same for V");
    flags->Add("ttl", &ttl_, "Lease what gets stored for so long");
    flags->Add("send_token_ids", &send_token_ids_,
               "Send the prompt's token ids along, for the daemon's KV events");
    flags->Add("write_space", &write_space_, "Write the space to this file, for --space later");
    prompt_.Add(flags);
    space_.Add(flags);
  }

  absl::Status Check(const FlagSet&) override {
    if (k_.empty() || v_.empty()) return absl::InvalidArgumentError("give --k and --v");
    auto arrays = KvArrays::Read(k_, v_);
    if (!arrays.ok()) return arrays.status();
    arrays_.emplace(*std::move(arrays));
    auto spec = space_.Spec(arrays_->Shape());
    if (!spec.ok()) return spec.status();
    auto shard = space_.MakeShard();
    if (!shard.ok()) return shard.status();
    auto layout = PlaneLayout::Create(*spec, *shard);
    if (!layout.ok()) return layout.status();
    layout_.emplace(*std::move(layout));
    if (absl::Status s = arrays_->Check(*layout_); !s.ok()) return s;
    auto keys = prompt_.Keys(*spec);
    if (!keys.ok()) return keys.status();
    keys_ = *std::move(keys);
    if (send_token_ids_) {
      token_ids_ = *prompt_.Tokens();
      token_ids_.resize(keys_.size() * spec->block_tokens);
    }
    if (arrays_->tokens() / spec->block_tokens >= keys_.size()) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat("the prompt has ", keys_.size(),
                                                   " blocks, but K "
                                                   "only ",
                                                   arrays_->tokens(), " tokens"));
  }

  int Run(const Connection& connection) override {
    if (!write_space_.empty()) {
      absl::Status s = WriteSpace(write_space_, layout_->spec());
      if (!s.ok()) {
        std::fprintf(stderr, "kvstow: %s\n", std::string(s.message()).c_str());
        return kExitFailed;
      }
    }
    auto client = connection.MakeClient();
    auto space = client->OpenSpace(layout_->spec(), layout_->shard());
    if (!space.ok()) return Complain(space.status(), connection);
    const auto start = std::chrono::steady_clock::now();
    const PutBlocksResult result = (*space)->PutBlocks(Request());
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    if (!result.status.ok()) return Complain(result.status, connection);
    Print(result, *layout_, took.count());
    return result.stored + result.existed > 0 ? kExitOk : kExitNo;
  }

 private:
  PutBlocksRequest Request() {
    PutBlocksRequest request;
    request.keys = keys_;
    request.ttl = ttl_;
    request.token_ids = token_ids_;
    request.source = [this](const PlaneSpec& plane, size_t block) {
      buffer_.resize(plane.raw_bytes);
      arrays_->CopyOut(*layout_, plane, block, buffer_);
      return std::span<const std::byte>(buffer_);
    };
    return request;
  }

  std::string k_, v_, write_space_;
  absl::Duration ttl_;
  bool send_token_ids_ = false;
  PromptFlags prompt_;
  SpaceFlags space_;

  std::optional<KvArrays> arrays_;
  std::optional<PlaneLayout> layout_;
  std::vector<BlockKey> keys_;
  std::vector<uint32_t> token_ids_;  // of the keys' blocks; empty: not sent
  std::vector<std::byte> buffer_;
};

}  // namespace

std::unique_ptr<Command> MakePut() { return std::make_unique<Put>(); }

}  // namespace kvstow::tool
