# Atelier. `make` builds ./atelier; `make demo` runs the main job; `make check` runs all tests. `make help` lists the rest.
BUILD   ?= build/release
CC      := gcc
PKGS    := dnnl hdf5-serial libpng libjpeg yaml-0.1 jansson libcrypto libpcre2-8 libutf8proc
MPI_CFLAGS := $(shell mpicc --showme:compile 2>/dev/null)
MPI_LIBS   := $(shell mpicc --showme:link 2>/dev/null)
PKGS_OTHER := $(filter-out dnnl,$(PKGS))
PKG_CFLAGS := $(shell pkg-config --cflags $(PKGS_OTHER) 2>/dev/null)
PKG_LIBS   := $(shell pkg-config --libs $(PKGS_OTHER) 2>/dev/null)

V       ?= 0
Q       := $(if $(filter 0,$(V)),@,)
SAY     := @printf '  %s %s\n'
WARN    := -Wall -Wextra -Wshadow -Wconversion -Werror
OPT     ?= -O2 -g
COMMIT  := $(shell git describe --always --dirty --abbrev=12 2>/dev/null || echo unknown)
CFLAGS  := -std=c11 -D_GNU_SOURCE $(WARN) $(OPT) -fopenmp -ffp-contract=off -Isrc $(SAN) $(EXTRA)
SYS_CFLAGS := $(subst -I,-isystem ,$(PKG_CFLAGS) $(MPI_CFLAGS))
LDFLAGS := -fopenmp $(SAN)
LDLIBS  := $(PKG_LIBS) -ldnnl $(MPI_LIBS) -lm -lpthread -ldl

DEF_version := -DATELIER_COMMIT='"$(COMMIT)"'

# Files named *.simd.c are compiled once per instruction set; see src/cpu/simd.h.
SIMD    := $(wildcard src/cpu/*.simd.c)
SRC     := $(filter-out $(SIMD) $(wildcard src/cli/*.c),$(wildcard src/*/*.c))
CLI     := $(wildcard src/cli/*.c)
LIBOBJ  := $(SRC:%.c=$(BUILD)/%.o) $(foreach isa,base avx2 avx512,$(SIMD:%.simd.c=$(BUILD)/%.$(isa).o))
CLIOBJ  := $(CLI:%.c=$(BUILD)/%.o)
TESTSRC := $(wildcard tests/*/test_*.c)
TESTBIN := $(TESTSRC:%.c=$(BUILD)/%)
BENCHSRC := $(wildcard benchmarks/bench_*.c)
BENCHBIN := $(BENCHSRC:%.c=$(BUILD)/%)
SIMD_FLAGS := -O3 -fno-math-errno -fno-trapping-math -ffp-contract=fast -Wno-psabi
ISA_base   := -DCPU_ISA=base -DCPU_ISA_LEVEL=0
ISA_avx2   := -DCPU_ISA=avx2 -DCPU_ISA_LEVEL=1 -march=haswell
ISA_avx512 := -DCPU_ISA=avx512 -DCPU_ISA_LEVEL=2 -march=skylake-avx512 -mprefer-vector-width=512

.PHONY: all clean help check check-unit demo install-deps
all: atelier

help:
	@sed -n 's/^\([a-z0-9-]*\):.*## /  \1: /p' Makefile

atelier: $(BUILD)/atelier
	cp $< $@

$(BUILD)/atelier: $(CLIOBJ) $(BUILD)/libatelier.a
	$(SAY) LD $@
	$(Q)$(CC) $(LDFLAGS) $^ $(LDLIBS) -o $@

$(BUILD)/libatelier.a: $(LIBOBJ)
	@rm -f $@
	$(SAY) AR $@
	$(Q)ar rcs $@ $^

$(BUILD)/src/%.o: src/%.c
	@mkdir -p $(@D)
	$(SAY) CC $<
	$(Q)$(CC) $(CFLAGS) $(SYS_CFLAGS) $(DEF_$(notdir $*)) -MMD -MP -c $< -o $@

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

clean:
	rm -rf build atelier

-include $(LIBOBJ:.o=.d) $(CLIOBJ:.o=.d) $(TESTBIN:=.d) $(BENCHBIN:=.d)
