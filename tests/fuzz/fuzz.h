/*
 * What a fuzzer offers to libFuzzer and to replay-main.c
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef TESTS_FUZZ_H
#define TESTS_FUZZ_H

/*
 * Run one input of @size bytes. Returns 0; a finding is an assertion that
 * fails or what a sanitizer reports. The name is libFuzzer's.
 */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#endif
