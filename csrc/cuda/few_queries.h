#pragma once

#include "../kernels.h"
#include "places.h"

namespace minillm::device {

// Attention of the tokens of a step to the keys and values of their texts, their own included, as
// decoding has it.
struct FewQueries {
    int64_t tokens;
    CachedAttention attention;
    Heads<const float> q;
    Heads<float> out;
    Places places;
};

// Floats that are needed where none of the tokens sees more than `most_keys`.
int64_t room_of_few(int64_t tokens, const CachedAttention& attention, int64_t most_keys);

// The launches follow from the sizes and from `most_keys`; the bits of a token follow from the
// number of keys that it sees itself. `keys_by_fours`: 16 divides the addresses of all keys.
void attend_few(const FewQueries& f, int64_t most_keys, bool keys_by_fours, float* room);

}  // namespace minillm::device
