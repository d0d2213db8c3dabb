# The words people type. What is behind them: ./configure installs what is
# missing, assembles the tree and configures, ninja builds, meson tests.
#
#   make              build the pair's QEMU
#   make demo         build, then watch a guest survive; LIBVIRT=1 has libvirt
#                     run it
#   make check        build, then run all tests
#   make check-unit   the tests that need no VM
#   make check-cut    streams cut at every message boundary
#   make check-asan   unit, qtest and engine tests under ASan and UBSan
#   make check-tsan   unit tests and a pair under TSan
#   make fuzz         each fuzzer for $(SECONDS), which is 600; needs clang
#   make bench        measure against stock QEMU and a plain VM; BENCH=pause
#                     runs a part, make bench-quick the headline workloads,
#                     make bench-docs puts the last results into the docs
#   make stock        QEMU with its own COLO, to compare with
#   make series       the patch series for QEMU, in $(BUILD)/series
#
# CONFIGURE="..." is passed on to ./configure.
#
# SPDX-License-Identifier: GPL-2.0-or-later

BUILD ?= build
SECONDS ?= 600

all: build

python:
	@command -v python3 >/dev/null || { test $$(id -u) = 0 && \
	  echo '==> installing python3' && \
	  { out=$$(apt-get update -q 2>&1 && DEBIAN_FRONTEND=noninteractive \
	    apt-get install -y -q --no-install-recommends python3 2>&1) || \
	    { echo "$$out" | tail -n 15 >&2; false; }; }; } || { \
	  echo 'python3 is missing; run as root: apt-get install python3' >&2; \
	  exit 1; }

configured: python
	@./configure --build=$(BUILD) $(CONFIGURE)

build: configured
	@echo '==> building'
	@ninja -C $(BUILD) --quiet

demo: build
	@COLO_QEMU_BUILD=$(abspath $(BUILD))/qemu LIBVIRT=$(LIBVIRT) \
	  python3 tests/functional/demo.py

check: build
	@python3 scripts/check.py $(BUILD) unit stock pair

check-unit check-stock check-pair check-cut: check-%: build
	@python3 scripts/check.py $(BUILD) $*

# Builds of their own, in $(BUILD)-asan and $(BUILD)-tsan
check-asan:
	@$(MAKE) build BUILD=$(BUILD)-asan \
	  CONFIGURE='$(CONFIGURE) -- --enable-asan --enable-ubsan'
	@python3 scripts/check.py --sanitized 5 $(BUILD)-asan unit engine

check-tsan:
	@$(MAKE) build BUILD=$(BUILD)-tsan CONFIGURE='$(CONFIGURE) -- \
	  --enable-tsan --cc=$(CURDIR)/scripts/tsan-gcc'
	@python3 scripts/check.py --sanitized 10 $(BUILD)-tsan unit tsan

fuzz: build
	@python3 scripts/fuzz.py $(BUILD) $(SECONDS)

stock: configured
	@python3 scripts/build-stock.py $(BUILD)

bench bench-quick: build stock
	@python3 tests/bench/bench.py $(if $(findstring quick,$@),--quick) \
	  $(BUILD) $(BENCH)

bench-docs:
	@mkdir -p docs/devel/colo-benchmark
	@cp $(BUILD)/bench.rst docs/devel/colo-benchmark/results.rst
	@cp $(BUILD)/bench/*.svg docs/devel/colo-benchmark

series: configured
	@python3 scripts/series.py $(BUILD)

.PHONY: all python configured build demo check check-unit check-stock check-pair \
        check-cut check-asan check-tsan fuzz stock bench bench-quick bench-docs \
        series
