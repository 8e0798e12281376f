// A batch of KV events as the msgpack that vLLM's publisher writes and KV-aware routers read:
//
//   [ts, [event, ...], dp_rank]
//
// with each event a map whose "type" names it, or, in the positional form, an array that begins
// with that name and has the values in the same order:
//
//   BlockStored       block_hashes, parent_block_hash, token_ids, block_size, lora_id, medium,
//                     lora_name
//   BlockRemoved      block_hashes, medium
//   AllBlocksCleared
//
// lora_id and lora_name are always nil: an adapter is in the key.
#pragma once

#include <cstdint>
#include <string>

#include "server/events/event_batch.h"

namespace kvstow {

struct EventFormat {
  enum class Form { kMap, kArray } form = Form::kMap;
  // A block's hash is its key, 32 bytes; or the integer that vLLM, and readers that know integers
  // alone, make of such a hash: the last 8 bytes, big-endian.
  enum class Hash { kBytes, kInteger } hash = Hash::kBytes;
  uint32_t dp_rank = 0;
};

// `ts`: seconds since 1970.
std::string Encode(const EventBatch& batch, const EventFormat& format, double ts);

// 8 bytes, big-endian: the second part of a message, between topic and batch.
std::string EncodeSequence(uint64_t sequence);

}  // namespace kvstow
