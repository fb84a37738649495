#include <algorithm>
#include <atomic>
#include <string>

#include "../precision.h"
#include "few_queries.h"
#include "plan_device.h"

namespace minillm {
namespace device {
namespace {

constexpr size_t most_kept = 64;
std::atomic<bool> graphs_wanted{true};

}  // namespace

bool keeps_graphs() { return graphs_wanted.load(std::memory_order_relaxed); }
void set_keeps_graphs(bool wanted) { graphs_wanted.store(wanted, std::memory_order_relaxed); }

void Graphs::require(std::vector<const void*> addresses) {
    if (addresses == addresses_) return;
    clear();
    addresses_ = std::move(addresses);
}

bool Graphs::repeats(const StepKind& kind) {
    const auto known = kept_.find(kind);
    if (known != kept_.end()) {
        known->second.used = ++calls_;
        return true;
    }
    if (kept_.size() == most_kept) {
        cudaStreamSynchronize(current_stream());
        kept_.erase(std::min_element(kept_.begin(), kept_.end(), [](const auto& a, const auto& b) {
            return a.second.used < b.second.used;
        }));
    }
    kept_[kind].used = ++calls_;
    return false;
}

void Graphs::clear() {
    if (!kept_.empty()) cudaStreamSynchronize(current_stream());
    kept_.clear();
}

}  // namespace device

namespace {

using namespace device;

// As many keys as any token sees, rounded up to a power of two: launches follow from that.
int64_t most_keys_of(const Tokens& tokens) {
    int64_t most = 256;
    for (int64_t i = 0; i < tokens.count; i++)
        while (most <= tokens.positions[i]) most *= 2;
    return most;
}

void copy(float* to, const float* from, int64_t floats) {
    check(cudaMemcpyAsync(to, from, sizeof(float) * floats, cudaMemcpyDeviceToDevice,
                          current_stream()),
          "plan");
}

}  // namespace

GrowingMemory::~GrowingMemory() { release(); }

void GrowingMemory::release() {
    give_memory(data_, current_stream());
    data_ = nullptr;
    floats_ = 0;
}

float* GrowingMemory::at_least(int64_t floats) {
    if (floats_ >= floats) return data_;
    release();
    data_ = static_cast<float*>(take_memory(sizeof(float) * floats, current_stream(), "plan"));
    floats_ = floats;
    return data_;
}

Plan::OnDevice::OnDevice() {
    check(cudaStreamCreateWithFlags(&own, cudaStreamNonBlocking), "plan");
    check(cudaEventCreateWithFlags(&done, cudaEventDisableTiming), "plan");
}

Plan::OnDevice::~OnDevice() {
    if (own) cudaStreamDestroy(own);  // once what it was asked for is done
    if (done) cudaEventDestroy(done);
}

Plan::OnDevice::Turn::Turn(OnDevice& plan) : plan_(plan) {
    check(cudaStreamWaitEvent(current_stream(), plan.done, 0), "plan");
}

Plan::OnDevice::Turn::~Turn() { cudaEventRecord(plan_.done, current_stream()); }

// The stream of the last call may be gone by now.
Plan::~Plan() {
    if (!device_) return;
    const CurrentStream during(device_->own);
    cudaStreamWaitEvent(device_->own, device_->done, 0);
    device_->graphs.clear();
    device_->places.release();
    device_->splits.release();
    spare_.release();
    for (GrowingMemory& memory : memory_) memory.release();
}

void Plan::run(const std::vector<const float*>& inputs, const Tokens& tokens, float* result) {
    if (!device_) device_ = std::make_shared<OnDevice>();
    const OnDevice::Turn turn(*device_);
    make_room(tokens);
    for (size_t i = 0; i < inputs.size(); i++) copy(data_[i], inputs[i], tokens.count * widths_[i]);
    device_->places.set(tokens);
    data_.back() = result;
    if (tokens.count < many_rows && keeps_graphs())
        run_as_graph(tokens, result);
    else
        run_steps(tokens);
}

void Plan::make_room(const Tokens& tokens) {
    int64_t widest = 0, splits = 0;
    for (size_t slot = 0; slot + 1 < widths_.size(); slot++) {
        data_[slot] = memory_[slot].at_least(tokens.count * widths_[slot]);
        widest = std::max(widest, widths_[slot]);
    }
    spare_.at_least(2 * tokens.count * widest);
    device_->most_keys = most_keys_of(tokens);
    for (const Step& step : steps_)
        if (step.kind == Kind::attend && tokens.count < many_rows)
            splits =
                std::max(splits, room_of_few(tokens.count, step.attention, device_->most_keys));
    device_->splits.at_least(splits);
}

// The launches go to the same addresses each time: the result is copied out of the plan's memory.
void Plan::run_as_graph(const Tokens& tokens, float* result) {
    const int64_t floats = static_cast<int64_t>(tokens.wanted.size()) * widths_.back();
    float* const kept = memory_.back().at_least(floats);
    OnDevice& on = *device_;
    const Places places = on.places.places();
    std::vector<const void*> addresses(data_.begin(), data_.end() - 1);
    addresses.insert(addresses.end(), {kept, spare_.at_least(0), on.splits.at_least(0), places.keys,
                                       places.tokens, tokens.cos, tokens.sin});
    on.graphs.require(std::move(addresses));
    const StepKind kind{tokens.count,         on.most_keys,    steps_.size(),
                        on.places.by_fours(), bf16_products(), tokens.wanted};
    if (!on.graphs.repeats(kind)) return run_steps(tokens);
    data_.back() = kept;
    try {
        on.graphs.run(kind, on.own, [&] { run_steps(tokens); });
    } catch (const OutOfMemory&) {
        on.graphs.clear();
        data_.back() = result;
        return run_steps(tokens);  // whose kernels ask for room
    } catch (const std::exception& error) {
        throw std::runtime_error(std::string("plan: ") + error.what() +
                                 ", a CUDA graph of the step is needed; MINILLM_GRAPHS=off does "
                                 "without");
    }
    if (floats) copy(result, kept, floats);
}

}  // namespace minillm
