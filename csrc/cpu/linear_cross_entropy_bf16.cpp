// The loss of a linear layer's logits, and its gradients, where products round to bfloat16. Logits
// are found class by row, token by column, so that what a token needs of them adds up across
// vectors; they exist for a few classes at a time, and their gradient becomes tiles at once.
#include "bf16_tiles.h"
#include "loss.h"

namespace minillm::MINILLM_ISA {

#if MINILLM_AMX

namespace {

constexpr int64_t strip = 256;          // classes that share a pass over the tokens
constexpr int64_t few = 128;            // classes whose logits exist at once, of a pair of columns
constexpr int64_t most_classes = 2048;  // classes whose gradient exists at once
constexpr int64_t most_tokens = 1024;   // tokens whose gradient does
constexpr int64_t block_tokens = 256;   // of a task: their part of dx stays in the second cache
constexpr int64_t few_inputs = 64;      // columns of dweight, of a task where classes are few

int64_t padded(int64_t lines) { return ceil_div(lines, pair) * pair; }

// Rows that follow each other in memory to tiles of a, filled up to whole pairs of lines. Read in
// one run, ahead of which the caches are filled: that is twice as fast as by tile.
TileBlock pack_run(const Matrix& a, const Tiles& to) {
    constexpr int64_t ahead = 1024;
    const TileBlock block{to.at(0, 0), a.rows, a.cols, to.stride()};
    for (int64_t i = 0; i < padded(a.rows); i++) {
        const float* from = a.data + i * a.cols;
        uint16_t* line = to.at(i, 0) + i % tile_lines * tile_depth;
        for (int64_t k = 0; k < a.cols; k += tile_depth, line += tile_numbers) {
            const int64_t count = i < a.rows ? a.cols - k : 0;
            vf low{}, high{};
            if (count >= 2 * W) {
                low = load(from + k);
                high = load(from + k + W);
                _mm_prefetch(from + k + ahead, _MM_HINT_T0);
                _mm_prefetch(from + k + W + ahead, _MM_HINT_T0);
            } else if (count > W) {
                low = load(from + k);
                high = load(from + k + W, First{count - W});
            } else if (count > 0) {
                low = load(from + k, First{count});
            }
            _mm512_store_si512(line, round_pair(low, high));
        }
    }
    return block;
}

// Tiles of a in whole pairs of lines to those of b with the lines as their depth.
void turn(const TileBlock& a, uint16_t* to, int64_t stride) {
    alignas(64) uint16_t order[2][2 * W];
    for (int i = 0; i < W; i++)
        for (int half = 0; half < 2; half++) {
            order[half][2 * i] = static_cast<uint16_t>(half * W + i);
            order[half][2 * i + 1] = static_cast<uint16_t>(2 * W + half * W + i);
        }
    const __m512i low = _mm512_load_si512(order[0]), high = _mm512_load_si512(order[1]);
    for (int64_t i = 0; i < a.lines; i += pair, to += tile_numbers) {
        for (int64_t tile = 0; tile < tiles_deep(a.depth); tile++) {
            uint16_t* left = to + 2 * tile * stride;
            for (int64_t line = 0; line < pair; line += 2, left += tile_depth) {
                const uint16_t* from = a[(i + line) / tile_lines] + tile * tile_numbers +
                                       line % tile_lines * tile_depth;
                const __m512i even = _mm512_load_si512(from);
                const __m512i odd = _mm512_load_si512(from + tile_depth);
                _mm512_store_si512(left, _mm512_permutex2var_epi16(even, low, odd));
                _mm512_store_si512(left + stride, _mm512_permutex2var_epi16(even, high, odd));
            }
        }
    }
}

// Tokens of a task: as few as give every thread some, in whole pairs.
int64_t share_of(int64_t tokens) {
    return smaller(block_tokens, padded(ceil_div(tokens, thread_count())));
}

// A vector for every 16 tokens of a chunk, of each of some kinds.
class Vectors {
 public:
    Vectors(int64_t kinds, int64_t tokens)
        : tokens_(padded(tokens)), memory_(kinds * padded(tokens)) {}
    float* operator[](int64_t kind) const { return memory_ + kind * tokens_; }

 private:
    const int64_t tokens_;
    const Scratch memory_;
};

enum { greatest, ties, others, total, kinds };

// What `classes` rows of 32 logits add to what is known of these tokens.
void summarize(const float* logits, int64_t classes, float* const (&to)[kinds]) {
    for (int64_t half = 0; half < pair; half += W) {
        vf top[4];
        for (vf& part : top) part = splat(-infinity());
        for (int64_t i = 0; i < classes; i++)
            top[i % 4] = max(load(logits + i * pair + half), top[i % 4]);
        const vf peak = max(max(top[0], top[1]), max(top[2], top[3]));
        const vf shift = select(peak == -infinity(), vf{}, peak);
        vf powers[2] = {}, equal[2] = {}, sums[2] = {};
        for (int64_t i = 0; i < classes; i++) {
            const vf logit = load(logits + i * pair + half), low = logit - shift;
            powers[i % 2] += select(low == 0.0f, vf{}, exp(low));
            equal[i % 2] += select(low == 0.0f, splat(1.0f), vf{});
            sums[i % 2] += logit;
        }
        store(to[greatest] + half, peak);
        store(to[ties] + half, equal[0] + equal[1]);
        store(to[others] + half, powers[0] + powers[1]);
        store(to[total] + half, sums[0] + sums[1]);
    }
}

class Forward {
 public:
    Forward(const Matrix& x, const Matrix& weight, const Target& t)
        : x_(x), weight_(weight), t_(t) {}

    void run(float* losses, float* lse) const {
        pack_columns_together(transposed(x_), inputs_);
        const int64_t tokens = x_.rows;
        const int64_t block = strips_ < 4 * thread_count() ? share_of(ceil_div(tokens, 4)) : tokens;
        const int64_t blocks = ceil_div(tokens, block);
        parallel_for(strips_ * blocks, [&](int64_t task) {
            const int64_t token = task % blocks * block;
            run_strip(task / blocks, token, smaller(tokens, token + block));
        });
        parallel_for(ceil_div(tokens, W), [&](int64_t group) { finish(group * W, losses, lse); });
    }

 private:
    void run_strip(int64_t number, int64_t token, int64_t end) const {
        const TileScope scope;
        const int64_t first = number * strip, classes = smaller(strip, weight_.rows - first);
        const Tiles own(strip, x_.cols);
        const TileBlock rows = pack_run(part(weight_, first, classes, 0, x_.cols), own);
        alignas(64) float logits[strip * pair] = {};
        for (; token < end; token += pair) {
            const int64_t tokens = smaller(pair, end - token);
            multiply_tiles(rows, part(inputs_.block(), token, tokens, 0, x_.cols),
                           {logits, pair, {}});
            float* to[kinds];
            for (int kind = 0; kind < kinds; kind++)
                to[kind] = sums_[number * kinds + kind] + token;
            summarize(logits, classes, to);
            for (int64_t i = 0; i < tokens; i++) {
                const int64_t place = t_.ids[token + i] - first;
                if (place >= 0 && place < classes) at_target_[token + i] = logits[place * pair + i];
            }
        }
    }

    // Joins the strips for the tokens of a vector.
    void finish(int64_t token, float* losses, float* lse) const {
        const auto get = [&](int64_t number, int kind) {
            return load(sums_[number * kinds + kind] + token);
        };
        vf peak = splat(-infinity()), sums[kinds] = {};
        for (int64_t s = 0; s < strips_; s++) peak = max(get(s, greatest), peak);
        for (int64_t s = 0; s < strips_; s++) {
            const vf own = get(s, greatest), scale = exp(own - peak);
            const vf lower = (get(s, others) + get(s, ties)) * scale;
            sums[others] += select(own == peak, get(s, others), lower);
            sums[ties] += select(own == peak, get(s, ties), vf{});
            sums[total] += get(s, total);
        }
        for (int64_t i = 0; i < smaller(W, x_.rows - token); i++) {
            const int64_t row = token + i;
            const RowSums row_sums{peak[i], sums[ties][i], sums[others][i], sums[total][i],
                                   at_target_[row]};
            lse[row] = row_sums.lse();
            losses[row] = t_.ignored(row) ? 0 : row_sums.loss(t_);
        }
    }

    const Matrix &x_, &weight_;
    const Target t_;
    const int64_t strips_ = ceil_div(weight_.rows, strip);
    const Tiles inputs_{x_.rows, x_.cols};
    const Vectors sums_{strips_ * kinds, x_.rows};
    const Scratch at_target_{x_.rows};
};

class Backward {
 public:
    Backward(const float* grad, const Matrix& x, const Matrix& weight, const Target& t,
             const float* lse, Gradient dx, Gradient dweight)
        : x_(x), weight_(weight), t_(t), dx_(dx), dweight_(dweight) {
        for (int64_t row = 0; row < padded(x.rows); row++) {
            const bool used = row < x.rows && !t.ignored(row);
            of_token_[used_][row] = used ? 1 : 0;
            of_token_[grad_][row] = used ? grad[row] : 0;
            of_token_[lse_][row] = used ? lse[row] : 0;
        }
    }

    void run() const {
        pack_columns_together(transposed(x_), inputs_);
        if (dweight_.data) pack_columns_together(x_, turned_inputs_);
        const int64_t block = share_of(x_.rows);
        for (int64_t first = 0; first < weight_.rows; first += most_classes) {
            const int64_t classes = smaller(most_classes, weight_.rows - first);
            parallel_for(ceil_div(x_.rows, block), [&](int64_t task) {
                run_tokens(first, classes, task * block, smaller(block, x_.rows - task * block));
            });
            if (dweight_.data) find_dweight(first, classes);
        }
    }

 private:
    enum { used_, grad_, lse_, vectors };

    // dlogits of some classes and tokens, and what it adds to dx.
    void run_tokens(int64_t first, int64_t classes, int64_t token, int64_t tokens) const {
        const TileScope scope;
        const int64_t k = x_.cols;
        const Tiles own(few + pair, k), depth(padded(k), strip), turned(padded(tokens), strip);
        alignas(64) float logits[(few + pair) * pair] = {};
        for (int64_t from = 0; from < classes; from += strip) {
            const int64_t deep = smaller(strip, classes - from);
            for (int64_t i = 0, lines; i < deep; i += lines) {
                lines = deep - i <= few + pair ? deep - i : few;
                const Matrix weight = part(weight_, first + from + i, lines, 0, k);
                const TileBlock rows = pack_run(weight, own);
                if (dx_.data) turn(rows, depth.at(0, i), depth.stride());
                for (int64_t j = 0; j < tokens; j += pair) {
                    multiply_tiles(
                        rows, part(inputs_.block(), token + j, smaller(pair, tokens - j), 0, k),
                        {logits, pair, {}});
                    to_gradient(logits, first + from + i, lines, token + j);
                    to_tiles(logits, padded(lines), dlogits_.at(from + i, token + j),
                             turned.at(j, i), turned.stride());
                }
            }
            if (dx_.data) {
                float* to = dx_.data + token * k;
                multiply_tiles(part(turned.block(), 0, tokens, 0, deep),
                               part(depth.block(), 0, k, 0, deep),
                               {to, k, dx_.add || first + from > 0 ? Strided{to, k} : Strided{}});
            }
        }
    }

    // From rows of 32 logits to their gradient; whole pairs of rows are written.
    void to_gradient(float* logits, int64_t first, int64_t classes, int64_t token) const {
        const float floor = t_.floor();
        for (int64_t half = 0; half < pair; half += W) {
            const vf used = load(of_token_[used_] + token + half);
            const vf grad = load(of_token_[grad_] + token + half);
            const vf lse = load(of_token_[lse_] + token + half);
            for (int64_t i = 0; i < classes; i++) {
                float* at = logits + i * pair + half;
                store(at, select(used != 0.0f, (exp(load(at) - lse) - floor) * grad, vf{}));
            }
        }
        for (int64_t i = 0; i < smaller(pair, x_.rows - token); i++) {
            const int64_t place = t_.ids[token + i] - first;
            if (place >= 0 && place < classes)
                logits[place * pair + i] -= (1 - t_.smoothing) * of_token_[grad_][token + i];
        }
        if (classes % pair)
            memset(logits + classes * pair, 0, sizeof(float) * pair * (padded(classes) - classes));
    }

    // Rows of 32 numbers to tiles of the depth of tokens and, turned, to those of the depth of
    // classes.
    void to_tiles(const float* rows, int64_t count, uint16_t* along, uint16_t* across,
                  int64_t stride) const {
        for (int64_t i = 0; i < count; i += pair, across += tile_numbers) {
            vf pairs[2][W];
            for (int64_t j = 0; j < pair; j += 2) {
                const float* row = rows + (i + j) * pair;
                const vf even[2] = {load(row), load(row + W)};
                const vf odd[2] = {load(row + pair), load(row + pair + W)};
                uint16_t* to =
                    along + (i + j) / tile_lines * dlogits_.stride() + j % tile_lines * tile_depth;
                _mm512_store_si512(to, round_pair(even[0], even[1]));
                _mm512_store_si512(to + tile_depth, round_pair(odd[0], odd[1]));
                for (int half = 0; half < 2; half++)
                    pairs[half][j / 2] = round_and_pair(even[half], odd[half]);
            }
            if (!dx_.data) continue;
            for (int half = 0; half < 2; half++) {
                transpose(pairs[half]);
                float* to = reinterpret_cast<float*>(across + half * stride);
                for (int j = 0; j < W; j++) store(to + j * W, pairs[half][j]);
            }
        }
    }

    void find_dweight(int64_t first, int64_t classes) const {
        const int64_t k = x_.cols, rows = ceil_div(classes, few);
        const int64_t width = rows < 4 * thread_count() ? few_inputs : k, cols = ceil_div(k, width);
        parallel_for(rows * cols, [&](int64_t task) {
            const TileScope scope;
            const int64_t line = task / cols * few, col = task % cols * width;
            float* to = dweight_.data + (first + line) * k + col;
            multiply_tiles(part(dlogits_.block(), line, smaller(few, classes - line), 0, x_.rows),
                           part(turned_inputs_.block(), col, smaller(width, k - col), 0, x_.rows),
                           {to, k, dweight_.add ? Strided{to, k} : Strided{}});
        });
    }

    const Matrix &x_, &weight_;
    const Target t_;
    const Gradient dx_, dweight_;
    const Tiles inputs_{x_.rows, x_.cols}, turned_inputs_{x_.cols, x_.rows};
    const Tiles dlogits_{padded(smaller(most_classes, weight_.rows)), padded(x_.rows)};
    const Vectors of_token_{vectors, x_.rows};
};

Gradient at_row(Gradient gradient, int64_t offset) {
    if (gradient.data) gradient.data += offset;
    return gradient;
}

Target at_row(Target target, int64_t row) {
    target.ids += row;
    return target;
}

}  // namespace

void linear_cross_entropy_bf16(const Matrix& x, const Matrix& weight, const Target& target,
                               float* losses, float* lse) {
    for (int64_t row = 0; row < x.rows; row += most_tokens) {
        const Matrix rows = part(x, row, smaller(most_tokens, x.rows - row), 0, x.cols);
        Forward(rows, weight, at_row(target, row)).run(losses + row, lse + row);
    }
}

void linear_cross_entropy_backward_bf16(const float* grad, const Matrix& x, const Matrix& weight,
                                        const Target& target, const float* lse, Gradient dx,
                                        Gradient dweight) {
    for (int64_t row = 0; row < x.rows; row += most_tokens) {
        const Matrix rows = part(x, row, smaller(most_tokens, x.rows - row), 0, x.cols);
        Backward(grad + row, rows, weight, at_row(target, row), lse + row, at_row(dx, row * x.cols),
                 {dweight.data, dweight.add || row > 0})
            .run();
    }
}

#endif

}  // namespace minillm::MINILLM_ISA
