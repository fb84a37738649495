// Where the tokens of a step stand and where their texts' keys lie, in memory of the device:
// kernels read it there, so that the launches of a step are the same from token to token.
#pragma once

#include <stdint.h>

#include <vector>

#include "../plan.h"
#include "launch.h"

namespace minillm::device {

struct TokenPlace {
    int64_t position, text;
};

struct Places {
    const TokenPlace* tokens;
    const LayerKeys* keys;  // (texts, layers)
    int64_t layers;

    __device__ int64_t position(int64_t token) const { return tokens[token].position; }
    __device__ const LayerKeys& of(int64_t token, int64_t layer) const {
        return keys[tokens[token].text * layers + layer];
    }
};

class PlacesMemory {
 public:
    void set(const Tokens& tokens);  // for what is launched on the current stream from now on
    Places places() const;
    bool by_fours() const { return by_fours_; }  // whether 16 divides all addresses of keys
    void release();

 private:
    GrowingMemory token_memory_, key_memory_;
    std::vector<LayerKeys> known_;  // what the device has
    Places places_{};
    bool by_fours_ = true;
};

}  // namespace minillm::device
