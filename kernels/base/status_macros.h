// Early returns for absl::Status and absl::StatusOr.
#pragma once

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#define TANDEM_RETURN_IF_ERROR(expression)                                  \
  do {                                                                      \
    if (absl::Status status_ = (expression); !status_.ok()) return status_; \
  } while (false)

#define TANDEM_CONCAT_INNER(a, b) a##b
#define TANDEM_CONCAT(a, b) TANDEM_CONCAT_INNER(a, b)

// TANDEM_ASSIGN_OR_RETURN(auto value, MakeValue());
#define TANDEM_ASSIGN_OR_RETURN(lhs, expression) \
  TANDEM_ASSIGN_OR_RETURN_IMPL(TANDEM_CONCAT(status_or_, __LINE__), lhs, expression)
#define TANDEM_ASSIGN_OR_RETURN_IMPL(temporary, lhs, expression) \
  auto temporary = (expression);                                 \
  if (!temporary.ok()) return std::move(temporary).status();     \
  lhs = *std::move(temporary)
