#include "client/tool/prompt_flags.h"

#include "absl/strings/str_cat.h"
#include "npy/npy.h"

namespace kvstow::tool {

void PromptFlags::Add(FlagSet* flags) {
  flags->Group("Prompt");
  flags->Add("tokens", &tokens_, ".npy of uint32: the prompt's token ids");
  flags->Add("adapter", &context_.adapter_digest, "Digest of a LoRA or other adapter");
  flags->Add("cache_salt", &context_.cache_salt, "Keeps users of one space apart");
}

absl::StatusOr<std::vector<uint32_t>> PromptFlags::Tokens() const {
  if (tokens_.empty()) return absl::InvalidArgumentError("say which prompt: --tokens=T.npy");
  absl::StatusOr<NpyArray> array = ReadNpy(tokens_);
  if (!array.ok()) {
    return absl::InvalidArgumentError(absl::StrCat("--tokens: ", array.status().message()));
  }
  if (array->type != NpyType::kUint32 || array->shape.size() != 1) {
    return absl::InvalidArgumentError("--tokens must be a one-dimensional uint32 array");
  }
  return std::vector<uint32_t>(array->As<uint32_t>().begin(), array->As<uint32_t>().end());
}

absl::StatusOr<std::vector<BlockKey>> PromptFlags::Keys(const SpaceSpec& spec) const {
  absl::StatusOr<std::vector<uint32_t>> tokens = Tokens();
  if (!tokens.ok()) return tokens.status();
  std::vector<BlockKey> keys =
      KeysOf(RootKey(FingerprintOf(spec), context_), *tokens, spec.block_tokens);
  if (!keys.empty()) return keys;
  return absl::InvalidArgumentError(absl::StrCat(
      "the prompt has ", tokens->size(), " tokens, less than one block of ", spec.block_tokens));
}

}  // namespace kvstow::tool
