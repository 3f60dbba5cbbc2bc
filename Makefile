# Atelier. `make` builds ./atelier; `make demo` runs the main job; `make check` runs all tests. `make help` lists the rest.
HDF5    ?= serial
BUILD   ?= build/$(if $(filter serial,$(HDF5)),release,hdf5-$(HDF5))
CC      := gcc
PKGS    := dnnl hdf5-$(HDF5) libcurl libpng zlib libjpeg libwebp libwebpmux pangocairo yaml-0.1 jansson libcrypto libpcre2-8 libutf8proc
MPI_CFLAGS := $(shell mpicc --showme:compile 2>/dev/null)
MPI_LIBS   := $(shell mpicc --showme:link 2>/dev/null)
PKGS_OTHER := $(filter-out dnnl,$(PKGS))
PKG_CFLAGS := $(shell pkg-config --cflags $(PKGS_OTHER) 2>/dev/null)
PKG_LIBS   := $(shell pkg-config --libs $(PKGS_OTHER) 2>/dev/null)

V       ?= 0
Q       := $(if $(filter 0,$(V)),@,)
SAY     := @printf '  %s %s\n'
WARN    := -Wall -Wextra -Wshadow -Wconversion -Werror
OPT     ?= -O2 -g1
CORES   := $(shell nproc)
COMMIT  := $(shell git describe --always --dirty --abbrev=12 2>/dev/null || echo unknown)
CFLAGS  := -std=c11 -D_GNU_SOURCE $(WARN) $(OPT) -fopenmp -ffp-contract=off -Isrc $(SAN) $(EXTRA)
SYS_CFLAGS := $(subst -I,-isystem ,$(PKG_CFLAGS) $(MPI_CFLAGS))
LDFLAGS := -fopenmp $(SAN)
LDLIBS  := $(PKG_LIBS) -ldnnl -llapacke $(MPI_LIBS) -lm -lpthread -ldl

DEF_version := -DATELIER_COMMIT='"$(COMMIT)"'

# Files named *.simd.c are compiled once per instruction set; see src/cpu/simd.h.
SIMD    := $(wildcard src/cpu/*.simd.c)
SRC     := $(filter-out $(SIMD) $(wildcard src/cli/*.c src/cuda/*.c),$(wildcard src/*/*.c))
CLI     := $(wildcard src/cli/*.c)
LIBOBJ  := $(SRC:%.c=$(BUILD)/%.o) $(foreach isa,base avx2 avx512,$(SIMD:%.simd.c=$(BUILD)/%.$(isa).o))
CLIOBJ  := $(CLI:%.c=$(BUILD)/%.o)
TESTSRC := $(wildcard tests/*/test_*.c)
CUDASRC := $(wildcard src/cuda/*.c)
KERNELS := $(wildcard kernels/*.cu)
TESTBIN := $(TESTSRC:%.c=$(BUILD)/%)
BENCHSRC := $(wildcard benchmarks/bench_*.c)
BENCHBIN := $(BENCHSRC:%.c=$(BUILD)/%)
SIMD_FLAGS := -O3 -fno-math-errno -fno-trapping-math -ffp-contract=fast -Wno-psabi
ISA_base   := -DCPU_ISA=base -DCPU_ISA_LEVEL=0
ISA_avx2   := -DCPU_ISA=avx2 -DCPU_ISA_LEVEL=1 -march=haswell
ISA_avx512 := -DCPU_ISA=avx512 -DCPU_ISA_LEVEL=2 -march=skylake-avx512 -mprefer-vector-width=512

.PHONY: FORCE registers all clean help check check-emu check-emu-san check-unit check-mpi check-cli check-slurm check-cloud check-hdf5 check-package check-image man install dist deb check-fuzz check-peers asan ubsan lint format bench bench-sweep bench-train demo install-deps base
all: atelier

help:
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1: /p' $(filter-out %.d,$(MAKEFILE_LIST)) | awk '{n = index($$0, ": "); printf "  make %-14s %s\n", substr($$0, 1, n - 1), substr($$0, n + 2)}'

atelier: $(BUILD)/atelier FORCE
	@cmp -s $< $@ || cp $< $@

# ---- CUDA: kernels by nvcc, linked into the program where nvcc is found; CUDA=0 leaves them out, CUDA=1 insists -----------
CUDA      ?= auto
NVCC      ?= $(shell command -v nvcc 2>/dev/null)
CUDA_SM   ?= 80 90 100
CUDA_ON   := $(if $(filter 0,$(CUDA)),,$(if $(NVCC),1,$(if $(filter 1,$(CUDA)),$(error CUDA=1: nvcc was not found; add it to PATH or set NVCC))))
CUDA_HOME := $(if $(CUDA_ON),$(realpath $(dir $(realpath $(NVCC)))..))
CU        := $(BUILD)/cuda
CU_OBJ    := $(if $(CUDA_ON),$(CU)/device.o $(CUDASRC:%.c=$(CU)/%.o) $(KERNELS:%.cu=$(CU)/%.o))
CU_LIBS   := $(if $(CUDA_ON),-L$(CUDA_HOME)/lib64 -lcudart_static -lrt -lstdc++)
# Machine code of each CUDA_SM, and PTX of the first for GPUs that come later.
CU_FLAGS  := -std=c++17 -O3 -lineinfo --compress-mode=size -Werror all-warnings -Xcompiler -Wall,-Wextra,-fPIC \
             $(foreach a,$(CUDA_SM),-gencode arch=compute_$(a),code=sm_$(a)) \
             -gencode arch=compute_$(firstword $(CUDA_SM)),code=compute_$(firstword $(CUDA_SM))

$(CU)/kernels/%.o: kernels/%.cu
	@mkdir -p $(@D)
	$(SAY) NVCC "$< [sm $(CUDA_SM)]"
	$(Q)$(NVCC) $(CU_FLAGS) -MMD -MP -c $< -o $@

$(CU)/src/cuda/%.o: src/cuda/%.c
	@mkdir -p $(@D)
	$(SAY) CC $<
	$(Q)$(CC) $(CFLAGS) -isystem $(CUDA_HOME)/include -Ikernels -MMD -MP -c $< -o $@

$(CU)/device.o: src/graph/device.c
	@mkdir -p $(@D)
	$(SAY) CC $< "[CUDA]"
	$(Q)$(CC) $(CFLAGS) -DATELIER_CUDA -MMD -MP -c $< -o $@

# Links again when CUDA is switched on or off.
$(CU).state: FORCE
	@mkdir -p $(@D)
	@echo '$(if $(CUDA_ON),$(NVCC),without)' | cmp -s - $@ || { echo '$(if $(CUDA_ON),$(NVCC),without)' >$@; \
	 echo '  $(if $(CUDA_ON),CUDA: kernels by $(NVCC),built without CUDA: $(if $(filter 0,$(CUDA)),CUDA=0,nvcc was not found))'; }

registers: ## registers, spills and shared memory of every kernel into benchmarks/results/registers.txt
	@python3 benchmarks/registers.py $(NVCC) '$(CUDA_SM)' $(KERNELS) >$(BUILD)/registers.txt && mv $(BUILD)/registers.txt benchmarks/results/

$(BUILD)/atelier: $(CLIOBJ) $(CU_OBJ) $(BUILD)/libatelier.a $(CU).state
	$(SAY) LD $@
	$(Q)$(CC) $(LDFLAGS) $(filter %.o %.a,$^) $(CU_LIBS) $(LDLIBS) -o $@

$(BUILD)/libatelier.a: $(LIBOBJ)
$(BUILD)/libfuzz.a: $(filter-out $(BUILD)/src/cpu/%,$(LIBOBJ))
$(BUILD)/lib%.a:
	@rm -f $@
	$(SAY) AR $@
	$(Q)ar rcs $@ $^

$(BUILD)/src/%.o: src/%.c
	@mkdir -p $(@D)
	$(SAY) CC $<
	$(Q)$(CC) $(CFLAGS) $(SYS_CFLAGS) $(DEF_$(notdir $*)) -MMD -MP -c $< -o $@

# The commit is part of every record: its object is made anew when the commit is another.
$(BUILD)/commit: FORCE
	@mkdir -p $(@D); echo '$(COMMIT)' | cmp -s - $@ || echo '$(COMMIT)' >$@
$(BUILD)/src/base/version.o: $(BUILD)/commit
.PHONY: FORCE

$(BUILD)/src/sweep/gallery_assets.o: $(wildcard src/sweep/gallery/*)
$(BUILD)/src/cli/job_script.o: slurm/job.sh

define simd_rule
$(BUILD)/src/%.$(1).o: src/%.simd.c
	@mkdir -p $$(@D)
	$$(SAY) CC $$< "[$(1)]"
	$$(Q)$(CC) $(CFLAGS) $(SYS_CFLAGS) $(SIMD_FLAGS) $(ISA_$(1)) -MMD -MP -c $$< -o $$@
endef
$(foreach isa,base avx2 avx512,$(eval $(call simd_rule,$(isa))))

$(BUILD)/tests/%: tests/%.c $(BUILD)/libatelier.a
	@mkdir -p $(@D)
	$(SAY) CC $<
	$(Q)$(CC) $(CFLAGS) -Wno-conversion $(SYS_CFLAGS) -Itests -MMD -MP $(LDFLAGS) $< $(BUILD)/libatelier.a $(LDLIBS) -lcmocka -o $@

$(BUILD)/benchmarks/%: benchmarks/%.c $(BUILD)/libatelier.a
	@mkdir -p $(@D)
	$(SAY) CC $<
	$(Q)$(CC) $(CFLAGS) $(SYS_CFLAGS) -MMD -MP $(LDFLAGS) $< $(BUILD)/libatelier.a $(LDLIBS) -o $@

# ---- the emulated CUDA device: the same kernels and host code, compiled by g++ (tests/emu) -----------------------------
# TSAN: each CUDA thread a fiber of ThreadSanitizer. KASAN: kernels, host side and tests under ASan and UBSan, the library as it is.
EMU        := $(BUILD)/emu$(if $(TSAN),-tsan)$(if $(KASAN),-asan)
EMU_SANFLAGS = $(SAN) $(TSAN) $(if $(KASAN),$(ASAN))
EMU_SCHED  := $(patsubst tests/emu/%.cpp,$(EMU)/%.o,$(wildcard tests/emu/*.cpp))
EMU_OBJ    := $(KERNELS:kernels/%.cu=$(EMU)/kernels/%.o) $(CUDASRC:%.c=$(EMU)/%.o) $(EMU_SCHED)
EMU_CXX    := -std=c++20 -Wall -Wextra -Wno-unknown-pragmas $(OPT) -ffp-contract=off -Itests/emu -Ikernels $(EXTRA)

EMU_TESTS  := $(patsubst tests/cuda/%.c,$(EMU)/tests/%,$(filter-out tests/cuda/mutate.c,$(wildcard tests/cuda/*.c)))
EMU_TEST_CU := $(patsubst tests/cuda/%.cu,$(EMU)/tests/cuda/%.o,$(wildcard tests/cuda/*.cu))
.SECONDARY: $(EMU_TEST_CU)

$(EMU)/kernels/%.o: kernels/%.cu
	@mkdir -p $(@D)
	$(SAY) CXX $<
	$(Q)g++ $(EMU_CXX) $(EMU_SANFLAGS) -MMD -MP -x c++ -c $< -o $@

$(EMU)/tests/cuda/%.o: tests/cuda/%.cu
	@mkdir -p $(@D)
	$(SAY) CXX $<
	$(Q)g++ $(EMU_CXX) $(EMU_SANFLAGS) -MMD -MP -x c++ -c $< -o $@

$(EMU)/nccl.o: EMU_CXX += -DOMPI_SKIP_MPICXX $(subst -I,-isystem ,$(MPI_CFLAGS))
$(EMU)/%.o: tests/emu/%.cpp
	@mkdir -p $(@D)
	$(SAY) CXX $<
	$(Q)g++ $(EMU_CXX) $(if $(TSAN),$(SAN) -DEMU_TSAN,$(EMU_SANFLAGS)) -MMD -MP -c $< -o $@

$(EMU)/src/cuda/%.o: src/cuda/%.c
	@mkdir -p $(@D)
	$(SAY) CC $<
	$(Q)$(CC) $(CFLAGS) $(if $(KASAN),$(ASAN)) -isystem tests/emu/include -Ikernels -MMD -MP -c $< -o $@

$(EMU)/device.o: src/graph/device.c
	@mkdir -p $(@D)
	$(SAY) CC $< "[emulated]"
	$(Q)$(CC) $(CFLAGS) -DATELIER_CUDA -MMD -MP -c $< -o $@

# The whole program on the emulated device.
$(EMU)/atelier: $(CLIOBJ) $(EMU)/device.o $(EMU_OBJ) $(BUILD)/libatelier.a
	$(SAY) LD $@
	$(Q)$(CC) $(LDFLAGS) $(TSAN) -rdynamic $^ $(LDLIBS) -lstdc++ -o $@

$(EMU)/tests/%: tests/cuda/%.c $(EMU_OBJ) $(EMU_TEST_CU) $(BUILD)/libatelier.a
	@mkdir -p $(@D)
	$(SAY) CC $<
	$(Q)$(CC) $(CFLAGS) -Wno-conversion -DEMULATED $(if $(TSAN),-DEMU_TSAN) $(SYS_CFLAGS) -isystem tests/emu/include -Ikernels -Itests -MMD -MP \
	    $(LDFLAGS) $(EMU_SANFLAGS) -rdynamic $< $(EMU_OBJ) $(EMU_TEST_CU) $(BUILD)/libatelier.a $(LDLIBS) -lcmocka -lstdc++ -o $@

# Tests of models that run on the CUDA backend too, with the same reference values.
CUDA_MODELS := unet vae clip_text gradients
EMU_MODELS  := $(CUDA_MODELS:%=$(EMU)/tests/model_%)
$(EMU)/tests/model_%: tests/models/test_%.c $(EMU_OBJ) $(BUILD)/libatelier.a
	@mkdir -p $(@D)
	$(SAY) CC "$< [emulated]"
	$(Q)$(CC) $(CFLAGS) -Wno-conversion -DFIX_CUDA $(SYS_CFLAGS) -Itests -MMD -MP $(LDFLAGS) -rdynamic $< $(EMU_OBJ) $(BUILD)/libatelier.a $(LDLIBS) \
	    -lcmocka -lstdc++ -o $@

BENCH_GPU := $(wildcard benchmarks/gpu/*.c)
$(EMU)/bench_gpu: $(BENCH_GPU) $(wildcard benchmarks/gpu/*.h) $(EMU_OBJ) $(BUILD)/libatelier.a
	@mkdir -p $(@D)
	$(SAY) CC "benchmarks/gpu [emulated]"
	$(Q)$(CC) $(CFLAGS) $(SYS_CFLAGS) -isystem tests/emu/include -Ikernels -Ibenchmarks/gpu $(LDFLAGS) -rdynamic $(BENCH_GPU) $(EMU_OBJ) $(BUILD)/libatelier.a \
	    $(LDLIBS) -lstdc++ -o $@

$(EMU)/tests/sums: tests/emu/sums.c $(EMU_OBJ) $(BUILD)/libatelier.a
	@mkdir -p $(@D)
	$(SAY) CC $<
	$(Q)$(CC) $(CFLAGS) -Wno-conversion $(SYS_CFLAGS) -MMD -MP $(LDFLAGS) $(TSAN) -rdynamic $^ $(LDLIBS) -lstdc++ -o $@

# Every tests/cuda/*.c and these models run here on the emulated device and in check-gpu, whole, on a GPU (tests/cuda/gpu.mk).
EMU_ONLY := *taps|*odd_sizes|*unet__bf16|*items*|*clip_text__*|*vae__sd??|*vae__bf16|*lora_with_text_encoder
check-emu: $(EMU_TESTS) $(EMU_MODELS) $(EMU)/atelier $(EMU)/bench_gpu $(EMU)/tests/sums ## CUDA kernels, models, benchmarks and whole runs on the emulated device
	@TEST_ONLY='$(EMU_ONLY)' ATELIER_EMU=$(EMU)/atelier BENCH_GPU=$(EMU)/bench_gpu SUMS=$(EMU)/tests/sums tests/run.sh -j $(CORES) \
	    tests/cuda/ranks.sh tests/cuda/emulated.sh tests/cuda/bench.sh tests/cuda/sweep.sh $(EMU_TESTS) $(EMU_MODELS)

EMU_SAN  := $(EMU_TESTS:$(EMU)/tests/%=%)
TSAN_BIN := $(BUILD)/emu-tsan/tests
check-emu-san: $(BUILD)/libatelier.a ## the kernels under ASan and UBSan, then as TSan fibers with blocks in order and with blocks unordered; each barrier taken away
	@$(MAKE) --no-print-directory KASAN=1 $(EMU_SAN:%=$(BUILD)/emu-asan/tests/%)
	@tests/run.sh -j $(CORES) $(EMU_SAN:%=$(BUILD)/emu-asan/tests/%)
	@$(MAKE) --no-print-directory TSAN=-fsanitize=thread $(EMU_SAN:%=$(TSAN_BIN)/%) $(TSAN_BIN)/mutate
	@TSAN_OPTIONS=halt_on_error=1 tests/run.sh -j $(CORES) $(EMU_SAN:%=$(TSAN_BIN)/%)
	@EMU_RACE=grid TSAN_OPTIONS=halt_on_error=1 tests/run.sh -j $(CORES) $(EMU_SAN:%=$(TSAN_BIN)/%)
	@MUTATE=$(TSAN_BIN)/mutate tests/run.sh tests/cuda/mutate.sh

-include tests/cuda/gpu.mk # packages carry no tests

# ---- tests -------------------------------------------------------------------------------------------------------------
MPI_TESTS  := $(filter $(BUILD)/tests/mpi/%,$(TESTBIN))
UNIT_TESTS := $(filter-out $(MPI_TESTS),$(TESTBIN))
CLI_TESTS  := $(sort $(wildcard tests/*/test_*.sh))
FUZZSRC    := $(wildcard tests/fuzz/fuzz_*.c)
FUZZBIN    := $(FUZZSRC:%.c=build/asan/%)
FUZZ_SECONDS ?= 3

check: install-deps ## build and run all tests; the last line counts them
	@rm -f build/tally; mkdir -p build
	@export TEST_TALLY=$(CURDIR)/build/tally; rc=0; \
	for t in atelier check-unit check-mpi check-cli check-emu check-emu-san check-gpu check-fuzz check-hdf5 check-slurm check-cloud check-package lint; do $(MAKE) -j$(CORES) --no-print-directory $$t || rc=1; done; \
	awk '{p += $$1; f += $$2; s += $$3} END {printf "%d passed, %d failed%s\n", p, f, s ? ", " s " skipped" : ""}' build/tally; exit $$rc

check-unit: $(UNIT_TESTS) ## tests of one process
	@tests/run.sh -j $(CORES) $(UNIT_TESTS)

check-mpi: $(MPI_TESTS) ## collective tests on 1, 2 and 4 ranks
	@tests/run.sh -n 1 -n 2 -n 4 $(MPI_TESTS)

check-cli: atelier ## whole runs of ./atelier: training, sweeps, resume, bad input
	@tests/run.sh -j $(CORES) $(CLI_TESTS)

SLURM_APT := slurmctld slurmd slurm-client munge
check-slurm: atelier ## jobs on a real Slurm on this machine (installs it; needs root)
	@[ "$$(id -u)" != 0 ] || tests/deps.sh $(SLURM_APT)
	@tests/run.sh tests/slurm/sbatch.sh tests/slurm/submit.sh

check-cloud: atelier build/s3-venv/ready ## object storage, several hosts (root and Python packages; skips without)
	@tests/run.sh -j $(CORES) $(wildcard tests/cloud/*.sh)

build/s3-venv/ready:
	@[ "$$(id -u)" != 0 ] || tests/deps.sh python3-venv iproute2
	@mkdir -p build; python3 -m venv build/s3-venv && build/s3-venv/bin/pip install -q --disable-pip-version-check 'moto[server,s3]' boto3 kubernetes-validate || \
	    echo "  no moto: tests of object storage are skipped"; touch $@

# No parser computes with the CPU backend: that comes from the other build (PLAIN), since instrumented it takes minutes to compile.
check-fuzz: $(BUILD)/libatelier.a ## each parser on mutated input under ASan and UBSan, FUZZ_SECONDS each
	@$(MAKE) --no-print-directory BUILD=build/asan SAN="$(ASAN)" PLAIN=$< fuzz-programs
	@FUZZ_SECONDS=$(FUZZ_SECONDS) tests/run.sh -j $(CORES) $(FUZZBIN)

check-peers: atelier ## round trips with diffusers, transformers, peft (needs Python with them; PEER_PYTHON=...)
	@tests/peers/run.sh

ASAN := -fsanitize=address,undefined -fno-omit-frame-pointer -fno-sanitize-recover=undefined
asan: ## unit tests under AddressSanitizer and UBSan
	@LSAN_OPTIONS=suppressions=$(CURDIR)/tests/lsan.supp:print_suppressions=0 $(MAKE) --no-print-directory BUILD=build/asan SAN="$(ASAN)" check-unit
ubsan: asan

.PHONY: fuzz-programs
fuzz-programs: $(FUZZBIN)
build/asan/tests/fuzz/%: tests/fuzz/%.c tests/fuzz/standalone.c $(BUILD)/libfuzz.a $(PLAIN)
	@mkdir -p $(@D)
	$(SAY) CC $<
	$(Q)$(CC) $(CFLAGS) -Wno-conversion $(SYS_CFLAGS) -MMD -MP $(LDFLAGS) $(filter %.c %.a,$^) $(LDLIBS) -o $@

lint: ## rules of the source tree: layers, sizes, names
	@python3 tests/lint.py

format: ## clang-format over all C sources
	clang-format -i $(shell git ls-files '*.c' '*.h')

bench: $(BENCHBIN) atelier ## speed and memory against diffusers where present
	@benchmarks/run.sh

bench-sweep: $(filter %/bench_sched %/bench_writer %/bench_plan,$(BENCHBIN)) ## sweeps: efficiency of the distribution, writer, planner
	@for b in sched writer plan; do echo "== bench_$$b"; $(BUILD)/benchmarks/bench_$$b || exit 1; done

bench-train: $(BUILD)/benchmarks/bench_train atelier ## training on 1 to 4 ranks, the share of communication, a model of 1,024 GPUs
	@python3 benchmarks/train_scaling.py $(BUILD)/benchmarks/bench_train

# ---- the main job ------------------------------------------------------------------------------------------------------
APT := gcc g++ make pkg-config libdnnl-dev libopenmpi-dev openmpi-bin libhdf5-dev libpng-dev libjpeg62-turbo-dev libwebp-dev libcairo2-dev libpango1.0-dev fonts-dejavu-core libyaml-dev \
       libjansson-dev liblapacke-dev libssl-dev libcurl4-openssl-dev libpcre2-dev libutf8proc-dev libcmocka-dev python3 hdf5-tools
install-deps: ## Debian packages that are missing (apt)
	@tests/deps.sh $(APT)

demo: install-deps ## the main job: fine-tune a LoRA on real art, render a sweep, show both (under 10 minutes on 2 cores)
	@$(MAKE) --no-print-directory atelier
	@configs/demo.sh

BASE_APT := openclipart-svg fonts-noto-color-emoji librsvg2-bin python3-pil python3-numpy python3-h5py python3-fonttools unicode-data
base: install-deps ## build the art set and train the base model from nothing (hours)
	@tests/deps.sh $(BASE_APT)
	@$(MAKE) --no-print-directory atelier
	@configs/base/train.sh

# ---- installing and packaging ------------------------------------------------------------------------------------------
PREFIX  ?= /usr/local
VERSION := $(shell sed -n 's/.*ATELIER_VERSION "\(.*\)".*/\1/p' src/base/version.h)
SHARE   := $(DESTDIR)$(PREFIX)/share

man: $(BUILD)/man/atelier.1 ## man pages, from the program's own help
$(BUILD)/man/atelier.1: $(BUILD)/atelier packaging/man.sh
	@packaging/man.sh $(BUILD)/atelier $(BUILD)/man

install: atelier man ## into DESTDIR/PREFIX (/usr/local): program, job scripts, man pages, completion, module files
	install -D -m 755 $(BUILD)/atelier $(DESTDIR)$(PREFIX)/bin/atelier
	install -d $(SHARE)/man/man1 $(SHARE)/atelier/slurm $(SHARE)/atelier/cloud $(SHARE)/atelier/configs $(SHARE)/doc/atelier
	for f in $(BUILD)/man/*.1; do gzip -9nc $$f > $(SHARE)/man/man1/$${f##*/}.gz; done
	install -m 755 slurm/*.sbatch slurm/pipeline.sh $(SHARE)/atelier/slurm
	install -m 644 slurm/job.sh $(SHARE)/atelier/slurm
	install -m 755 cloud/*.sh $(SHARE)/atelier/cloud
	install -m 644 configs/*.yaml $(SHARE)/atelier/configs
	install -m 644 README.md docs/*.md $(SHARE)/doc/atelier
	install -D -m 644 packaging/atelier.bash $(SHARE)/bash-completion/completions/atelier
	install -d $(SHARE)/atelier/modulefiles
	for f in lua tcl; do sed 's|@PREFIX@|$(PREFIX)|; s|@VERSION@|$(VERSION)|' packaging/atelier.$$f.in > $(SHARE)/atelier/modulefiles/$(VERSION).$$f; done

dist: ## build/atelier-VERSION.tar.gz of the committed sources
	@mkdir -p build
	git archive --prefix=atelier-$(VERSION)/ HEAD | gzip -9n > build/atelier-$(VERSION).tar.gz
	@echo build/atelier-$(VERSION).tar.gz

DEB_APT := dpkg-dev debhelper fakeroot
deb: ## a Debian package in build/deb
	@tests/deps.sh $(APT) $(DEB_APT)
	@packaging/deb.sh

# Only what includes HDF5's header differs from the other build.
check-hdf5: atelier ## the program built with a parallel HDF5 (HDF5=openmpi): its files, and run.h5 written by several ranks
	@[ "$$(id -u)" != 0 ] || tests/deps.sh libhdf5-openmpi-dev
	@mkdir -p build/hdf5-openmpi; cp -a build/release/src build/release/commit build/hdf5-openmpi; \
	 rm $$(grep -lE '<hdf5.h>|h5_impl.h' -r src --include=*.c | sed 's|\(.*\).c$$|build/hdf5-openmpi/\1.o|')
	@$(MAKE) --no-print-directory HDF5=openmpi CUDA=0 build/hdf5-openmpi/atelier $(H5_TESTS)
	@ATELIER=build/hdf5-openmpi/atelier tests/run.sh -j $(CORES) $(H5_TESTS) tests/mpi/hdf5.sh
H5_TESTS := $(patsubst %,build/hdf5-openmpi/tests/%,io/test_h5 io/test_h5_journal train/test_cache sweep/test_writer)

check-package: atelier ## make install and dist, the Debian package, man pages, completion, Kubernetes manifests, the image's steps in a bare root
	@[ "$$(id -u)" != 0 ] || tests/deps.sh $(DEB_APT) mmdebstrap
	@tests/run.sh -j $(CORES) $(sort $(wildcard tests/package/*.sh))

check-image: atelier ## the image's steps with all compiled in there, also with CUDA, and the Debian package (minutes; root)
	@tests/deps.sh $(DEB_APT) mmdebstrap
	@IMAGE=1 DEB=1 TEST_TIMEOUT=1800 tests/run.sh tests/package/image.sh tests/package/deb.sh

clean:
	rm -rf build atelier

-include $(CU_OBJ:.o=.d) $(EMU_OBJ:.o=.d) $(EMU_TEST_CU:.o=.d) $(EMU_TESTS:=.d) $(EMU_MODELS:=.d) $(EMU)/tests/sums.d $(GPU_DEP) $(LIBOBJ:.o=.d) $(CLIOBJ:.o=.d) $(TESTBIN:=.d) $(BENCHBIN:=.d)
