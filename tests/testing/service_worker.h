// A worker of a Service without a transport: puts, gets and drops prompts, checks what must hold
// for every call. Not thread-safe; each thread has its own.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/synchronization/notification.h"
#include "gtest/gtest.h"
#include "server/core/service.h"

namespace kvstow::testing {

// One prompt: its blocks' keys and planes.
struct Prompt {
  std::vector<BlockKey> keys;
  std::vector<std::vector<std::vector<std::byte>>> blocks;  // [block][plane]
};

class ServiceWorker {
 public:
  ServiceWorker(Service* service, SpaceSpec spec)
      : service_(*service), spec_(std::move(spec)), layout_(*PlaneLayout::Create(spec_, {})) {
    Connect();
  }
  ~ServiceWorker() { service_.EndSession(session_->id()); }

  // Ends the session and begins another.
  void Reconnect() {
    service_.EndSession(session_->id());
    Connect();
  }

  // Stops and cancels after `planes` planes when that is less than all.
  void Put(const Prompt& prompt, absl::Duration ttl = {}, size_t planes = SIZE_MAX) {
    auto put = service_.Put(kDefaultTenant, session_->id(), space_, Intents(prompt), ttl);
    ASSERT_TRUE(put.ok()) << put.status();
    for (size_t p = 0; p < layout_.planes().size(); ++p) {
      for (uint32_t b = 0; b < prompt.keys.size(); ++b) {
        if ((*put)->answers()[b].kind != Store::ReserveAnswer::Kind::kSend) continue;
        if (planes-- == 0) {
          (*put)->Cancel();
          return;
        }
        const PlaneSpec& plane = layout_.planes()[p];
        const uint32_t bytes = static_cast<uint32_t>(plane.raw_bytes);
        const PlaneSegment segment = {plane.layer, plane.kind, b, 0, bytes, bytes};
        const std::span<const std::byte> data = prompt.blocks[b][p];
        ASSERT_TRUE((*put)->Add({&segment, 1}, {&data, 1}).ok());
      }
    }
    absl::Notification done;
    const absl::Status committed = (*put)->Commit([&](absl::StatusOr<PutResults> results) {
      EXPECT_TRUE(results.ok()) << results.status();
      done.Notify();
    });
    ASSERT_TRUE(committed.ok()) << committed;
    done.WaitForNotification();
  }

  // Gets what there is of a prompt. Nothing may be damaged; `check` sees the plane that was put and
  // the one that came.
  using Check = std::function<void(std::span<const std::byte> put, std::span<const std::byte> got)>;
  void Get(const Prompt& prompt, const Check& check) {
    auto get =
        service_.Get(kDefaultTenant, session_->id(), space_, prompt.keys, {}, PlaneForm::kDecoded);
    ASSERT_TRUE(get.ok()) << get.status();
    for (bool end = false; !end;) {
      absl::Notification came;
      (*get)->Next([&](absl::StatusOr<PlaneDelivery> delivery) {
        EXPECT_TRUE(delivery.ok()) << delivery.status();
        end = !delivery.ok() || delivery->kind == PlaneDelivery::Kind::kEnd;
        if (!end) CheckPlane(prompt, *delivery, check);
        came.Notify();
      });
      came.WaitForNotification();
    }
  }

  void Lookup(const Prompt& prompt, absl::Duration ttl) {
    EXPECT_TRUE(
        service_.Lookup(kDefaultTenant, session_->id(), space_, prompt.keys, "r", ttl).ok());
  }
  void DropLast(const Prompt& prompt) {
    const auto last = std::span(prompt.keys).last(1);
    EXPECT_TRUE(service_.Drop(kDefaultTenant, session_->id(), space_, last).ok());
  }

 private:
  void Connect() {
    session_ = *service_.BeginSession(kDefaultTenant, "service-worker");
    space_ = service_.OpenSpace(kDefaultTenant, session_->id(), spec_, {})->handle;
  }
  std::vector<BlockIntent> Intents(const Prompt& prompt) const {
    std::vector<BlockIntent> intents;
    for (size_t b = 0; b < prompt.keys.size(); ++b) {
      intents.push_back({prompt.keys[b], b == 0 ? BlockKey{} : prompt.keys[b - 1],
                         b * uint64_t{spec_.block_tokens}});
    }
    return intents;
  }
  void CheckPlane(const Prompt& prompt, const PlaneDelivery& delivery, const Check& check) {
    ASSERT_EQ(delivery.kind, PlaneDelivery::Kind::kPlane) << "nothing damages records here";
    for (size_t p = 0; p < layout_.planes().size(); ++p) {
      const PlaneSpec& plane = layout_.planes()[p];
      if (plane.layer != delivery.layer || plane.kind != delivery.plane_kind) continue;
      check(prompt.blocks[delivery.block][p], delivery.bytes);
    }
  }

  Service& service_;
  const SpaceSpec spec_;
  const PlaneLayout layout_;
  std::shared_ptr<Session> session_;
  uint64_t space_ = 0;
};

}  // namespace kvstow::testing
