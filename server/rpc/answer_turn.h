// Who goes on after a question whose answer may come before the question returns.
#pragma once

#include <atomic>

namespace kvstow {

// Its asker goes on, in a loop, when the answer came at once; else the answer's callback does. So
// answers that come at once, however many, do not pile up on the stack.
//
// Thread safety: one question at a time; Answer may come from any thread.
class AnswerTurn {
 public:
  void Ask() { turn_ = Turn::kAsked; }
  // By the callback, once. True when it is to go on.
  bool Answer() { return turn_.exchange(Turn::kAnswered) == Turn::kLeft; }
  // By the asker, when the question has returned. True when it is to go on.
  bool Leave() { return turn_.exchange(Turn::kLeft) == Turn::kAnswered; }

 private:
  enum class Turn { kAsked, kAnswered, kLeft };
  std::atomic<Turn> turn_{Turn::kLeft};
};

}  // namespace kvstow
