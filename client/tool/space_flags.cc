#include "client/tool/space_flags.h"

#include <google/protobuf/io/tokenizer.h>
#include <google/protobuf/text_format.h>

#include <algorithm>
#include <fstream>
#include <sstream>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "client/convert.h"
#include "npy/npy.h"

namespace kvstow::tool {
namespace {

using google::protobuf::TextFormat;

absl::Status Usage(absl::string_view what) { return absl::InvalidArgumentError(what); }

// Keeps the first error of a text file.
class FirstError : public google::protobuf::io::ErrorCollector {
 public:
  void AddError(int line, int column, const std::string& message) override {
    if (text.empty()) text = absl::StrCat(line + 1, ":", column + 1, ": ", message);
  }
  std::string text;
};

absl::Status Pick(const std::optional<uint32_t>& flag, const std::optional<uint32_t>& known,
                  absl::string_view name, uint32_t* value) {
  if (!flag && !known) {
    return Usage(absl::StrCat("say which space: --space=FILE, or --model with --", name,
                              " and the other layout flags"));
  }
  *value = flag ? *flag : *known;
  return absl::OkStatus();
}

}  // namespace

void SpaceFlags::Add(FlagSet* flags) {
  flags_ = flags;
  flags->Group("Space (--space, or the fields one by one)");
  flags->Add("space", &file_, "File with a kvstow.v1.SpaceSpec in protobuf text form");
  flags->Add("model", &model, "Name of the model");
  flags->Add("revision", &revision_, "Revision of its weights");
  flags->Add("layers", &layers_, "Number of layers, 0 and up");
  flags->Add("kv_heads", &kv_heads_, "KV heads of the whole model");
  flags->Add("k_dim", &k_dim_, "Head dimension of K");
  flags->Add("v_dim", &v_dim_, "Head dimension of V; k_dim when not given");
  flags->Add("dtype", &dtype_, {"fp16", "bf16", "fp32"}, "Element type");
  flags->Add("window", &window_, "Sliding window in tokens; 0 for full attention");
  flags->Add("block_tokens", &block_tokens_, "Tokens a block: 128, 256 or 512");
  flags->Add("inv_freq", &inv_freq_,
             ".npy of float32: inverse frequencies of the rotary embedding; without it keys are "
             "coded as they come");
  flags->Add("pairing", &pairing_, {"half", "interleaved"}, "How rotary coordinates pair up");
  flags->Add("rotary_offset", &rotary_offset_, "First rotary coordinate of a head");
  flags->Add("codec", &codec_, {"eoptshrinkq", "turboquant", "raw"}, "How blocks are coded");
  flags->Add("bits", &bits_, "Bits a coordinate, 1 to 4, for K and V");
  flags->Add("k_bits", &k_bits_, "The same for K alone");
  flags->Add("v_bits", &v_bits_, "The same for V alone");
  flags->Add("shrinker", &shrinker_, {"truncate", "optimal"}, "Singular values of the low rank");
  flags->Add("max_relative_error", &max_relative_error_, "Bound on each tile's error; 0 for none");
  flags->Add("keep_rotary", &keep_rotary_, "Do not undo the rotary embedding before coding");
  flags->Add("open_loop", &open_loop_, "Code the residual of the unquantised low rank: a baseline");
  flags->Add("key_scheme", &key_scheme_, "Who makes the keys; empty for kvstow's own chain");
  flags->Group("Shard (for one worker of several)");
  flags->Add("shard", &shard_, "Index of the shard");
  flags->Add("expected_shards", &expected_shards_, "Shards that make a block whole: 0,1 say");
  flags->Add("tensor_rank", &tensor_rank_, "Tensor-parallel rank: which heads");
  flags->Add("tensor_size", &tensor_size_, "Tensor-parallel size");
  flags->Add("first_layer", &first_layer_, "First layer of a pipeline stage");
  flags->Add("layer_count", &layer_count_, "Layers of a pipeline stage; 0 for all");
}

absl::Status SpaceFlags::CheckFileAlone() const {
  for (const char* name :
       {"model",       "revision",  "layers",       "kv_heads", "k_dim",    "v_dim",
        "dtype",       "window",    "block_tokens", "inv_freq", "pairing",  "rotary_offset",
        "codec",       "bits",      "k_bits",       "v_bits",   "shrinker", "max_relative_error",
        "keep_rotary", "open_loop", "key_scheme"}) {
    if (flags_->given(name)) {
      return Usage(absl::StrCat("--space says everything about the space; leave out --", name));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<SpaceSpec> SpaceFlags::FromFile() const {
  if (absl::Status s = CheckFileAlone(); !s.ok()) return s;
  std::ifstream in(file_);
  std::stringstream text;
  text << in.rdbuf();
  if (!in) return Usage(absl::StrCat("--space: cannot read ", file_));
  FirstError error;
  TextFormat::Parser parser;
  parser.RecordErrorsTo(&error);
  v1::SpaceSpec proto;
  if (!parser.ParseFromString(text.str(), &proto)) {
    return Usage(absl::StrCat("--space: ", file_, ":", error.text));
  }
  return client::FromProto(proto);
}

absl::StatusOr<std::optional<RotaryEmbedding>> SpaceFlags::Rotary() const {
  if (inv_freq_.empty()) return std::optional<RotaryEmbedding>();
  absl::StatusOr<NpyArray> array = ReadNpy(inv_freq_);
  if (!array.ok()) return Usage(absl::StrCat("--inv_freq: ", array.status().message()));
  if (array->type != NpyType::kFp32 || array->shape.size() != 1) {
    return Usage("--inv_freq must be a one-dimensional float32 array");
  }
  RotaryEmbedding rotary;
  rotary.inverse_frequencies.assign(array->As<float>().begin(), array->As<float>().end());
  rotary.pairing =
      pairing_ == "half" ? RotaryEmbedding::Pairing::kHalf : RotaryEmbedding::Pairing::kInterleaved;
  rotary.offset = rotary_offset_;
  return std::optional<RotaryEmbedding>(rotary);
}

absl::Status SpaceFlags::FillGroup(const Known& known, LayerGroup* group) const {
  uint32_t layers;
  if (auto s = Pick(layers_, known.layers, "layers", &layers); !s.ok()) return s;
  for (uint32_t i = 0; i < layers; ++i) group->layers.push_back(first_layer_ + i);
  std::optional<uint32_t> heads;
  if (known.shard_heads) heads = *known.shard_heads * tensor_size_;
  if (auto s = Pick(kv_heads_, heads, "kv_heads", &group->kv_heads); !s.ok()) return s;
  if (auto s = Pick(k_dim_, known.k_dim, "k_dim", &group->k_dim); !s.ok()) return s;
  group->v_dim = v_dim_ ? *v_dim_ : known.v_dim.value_or(group->k_dim);
  group->dtype = dtype_ == "bf16"   ? DType::kBf16
                 : dtype_ == "fp32" ? DType::kFp32
                 : dtype_ == "fp16" ? DType::kFp16
                                    : known.dtype.value_or(DType::kFp16);
  group->window = window_;
  auto rotary = Rotary();
  if (!rotary.ok()) return rotary.status();
  group->rotary = *rotary;
  return absl::OkStatus();
}

CodecSettings SpaceFlags::Codec() const {
  CodecSettings codec;
  codec.codec = codec_ == "raw"          ? CodecId::kRaw
                : codec_ == "turboquant" ? CodecId::kTurboQuant
                                         : CodecId::kEOptShrinkQ;
  codec.k_bits = k_bits_.value_or(bits_);
  codec.v_bits = v_bits_.value_or(bits_);
  codec.shrinker = shrinker_ == "optimal" ? Shrinker::kOptimal : Shrinker::kTruncate;
  codec.closed_loop = !open_loop_;
  codec.undo_rotary = !keep_rotary_;
  codec.max_relative_error = max_relative_error_;
  return codec;
}

absl::StatusOr<SpaceSpec> SpaceFlags::Spec(const Known& known) const {
  if (!file_.empty()) return FromFile();
  if (model.empty()) return Usage("say which space: --space=FILE, or --model and layout flags");
  SpaceSpec spec;
  spec.model.name = model;
  spec.model.revision = revision_;
  spec.block_tokens = block_tokens_;
  spec.codec = Codec();
  spec.key_scheme = key_scheme_;
  spec.groups.emplace_back();
  if (auto s = FillGroup(known, &spec.groups[0]); !s.ok()) return s;
  if (auto s = Validate(spec); !s.ok()) return s;
  return spec;
}

absl::StatusOr<Shard> SpaceFlags::MakeShard() const {
  Shard shard;
  shard.index = shard_;
  shard.expected = {shard_};
  shard.tensor_rank = tensor_rank_;
  shard.tensor_size = tensor_size_;
  shard.first_layer = first_layer_;
  shard.layer_count = layer_count_;
  if (expected_shards_.empty()) return shard;
  shard.expected.clear();
  for (absl::string_view part : absl::StrSplit(expected_shards_, ',')) {
    uint32_t index;
    if (!absl::SimpleAtoi(part, &index)) return Usage("--expected_shards must look like 0,1,2");
    shard.expected.push_back(index);
  }
  return shard;
}

absl::Status WriteSpace(const std::string& path, const SpaceSpec& spec) {
  std::string text;
  TextFormat::PrintToString(client::ToProto(spec), &text);
  std::ofstream out(path);
  out << text;
  out.close();
  return out ? absl::OkStatus() : absl::UnavailableError(absl::StrCat("cannot write ", path));
}

}  // namespace kvstow::tool
