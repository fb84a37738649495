// Fibers with stacks of their own, numbered from 0; one runs at a time, and only when entered.
#pragma once

namespace minillm::on_host {

void start_fiber(int number, void (*body)());    // it begins at the first entry
bool enter_fiber(int number);                    // until it leaves (true) or has ended (false)
void leave_fiber();                              // by the one that runs: back to who entered it
bool on_fiber(int number, const void* address);  // whether it lies on that one's stack

}  // namespace minillm::on_host
