// One rank's part of matrices that were packed whole: the same panels, with some of the rows and
// some of the leaves. No value is touched, so nothing is quantized or rounded again.
#pragma once

#include <span>

#include "absl/status/status.h"
#include "kernels/backend.h"
#include "kernels/cpu/linear_layout.h"

namespace tandem::kernels::cpu {

// Rows [begin, end) of the weight of `spec`, whose rows are those of `rows` one after another, into
// a panel of `padded` rows. Where it falls together with a panel of a whole matrix it is read in
// place; else its rows are picked out of copies.
absl::Status CopyPackedPanel(const LinearSpec& spec, std::span<const PackedRows> rows,
                             int64_t begin, int64_t end, int64_t padded, std::byte* panel);

}  // namespace tandem::kernels::cpu
