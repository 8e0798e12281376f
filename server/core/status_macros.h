// Early return for absl::Status and StatusOr.
#pragma once

#include <utility>

#define KVSTOW_RETURN_IF_ERROR(expr)                      \
  do {                                                    \
    if (absl::Status kvstow_s = (expr); !kvstow_s.ok()) { \
      return kvstow_s;                                    \
    }                                                     \
  } while (false)

#define KVSTOW_CONCAT_INNER(a, b) a##b
#define KVSTOW_CONCAT(a, b) KVSTOW_CONCAT_INNER(a, b)

// KVSTOW_ASSIGN_OR_RETURN(auto x, MakeX());
#define KVSTOW_ASSIGN_OR_RETURN(lhs, expr) \
  KVSTOW_ASSIGN_OR_RETURN_INNER(KVSTOW_CONCAT(kvstow_or_, __LINE__), lhs, expr)
#define KVSTOW_ASSIGN_OR_RETURN_INNER(tmp, lhs, expr) \
  auto tmp = (expr);                                  \
  if (!tmp.ok()) return tmp.status();                 \
  lhs = *std::move(tmp)
