#include "server/core/record_mover.h"

#include "server/core/testing/memory_tier.h"
#include "server/core/testing/record_mover_conformance.h"
#include "server/core/testing/step_executor.h"

namespace kvstow {
namespace {

class ExecutorMoverWorld : public MoverWorld {
 public:
  Tier& first() override { return first_; }
  Tier& second() override { return second_; }
  RecordMover& mover() override { return mover_; }
  void Finish() override { executor_.RunAll(); }

 private:
  MemoryTier first_{1024, 1024, 256, TierKind::kGpu}, second_{256, 4096, 64};
  StepExecutor executor_;
  ExecutorMover mover_{&executor_};
};

std::unique_ptr<MoverWorld> CreateWorld() { return std::make_unique<ExecutorMoverWorld>(); }
INSTANTIATE_TEST_SUITE_P(Executor, RecordMoverConformance,
                         testing::Values(MoverFactory{"executor", CreateWorld}));

TEST(ExecutorMover, ReportsOnlyWhenTheLastRecordIsThere) {
  MemoryTier from(16, 64, 16), to(16, 64, 16);
  StepExecutor executor;
  ExecutorMover mover(&executor);
  std::vector<RecordMove> moves;
  for (int i = 0; i < 3; ++i)
    moves.push_back({&from, *from.Allocate(64), &to, *to.Allocate(64), 64});
  bool ended = false;
  mover.Move(std::move(moves), [&ended](std::span<const absl::Status>) { ended = true; });
  EXPECT_FALSE(ended) << "not on the caller's stack";
  EXPECT_EQ(executor.queue_depth(), 3u);
  executor.RunOne();
  executor.RunOne();
  EXPECT_FALSE(ended);
  executor.RunOne();
  EXPECT_TRUE(ended);
}

}  // namespace
}  // namespace kvstow
