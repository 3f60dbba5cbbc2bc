# The tests and benchmarks of the CUDA backend for a machine with a GPU: a folder, build/gpu, that needs neither this tree nor MPI, HDF5,
# oneDNN or a network there, only a driver and cuBLAS. See tests/cuda/check_gpu.sh.
GPU        := build/gpu
GPU_TESTS  := $(patsubst tests/cuda/%.c,$(GPU)/bin/%,$(filter-out tests/cuda/mutate.c,$(wildcard tests/cuda/*.c)))
GPU_MODELS := $(CUDA_MODELS:%=$(GPU)/bin/model_%)
GPU_BIN    := $(GPU_TESTS) $(GPU_MODELS) $(GPU)/bin/bench_gpu
GPU_CU     := $(patsubst tests/cuda/%.cu,$(CU)/tests/cuda/%.o,$(wildcard tests/cuda/*.cu))
GPU_DEP    := $(GPU_CU:.o=.d) $(GPU_BIN:$(GPU)/bin/%=$(CU)/bin/%.d)
GPU_VECTORS := $(addprefix tests/vectors/,unet vae text sd15-tiny sd21-tiny \
               $(addprefix training/,batches.safetensors lora_attn.safetensors lora_attn_te.safetensors lora_ffconv.safetensors full_unet.safetensors))
.SECONDARY: $(GPU_CU)

$(CU)/tests/cuda/%.o: tests/cuda/%.cu
	@mkdir -p $(@D)
	$(SAY) NVCC "$< [sm $(CUDA_SM)]"
	$(Q)$(NVCC) $(CU_FLAGS) -Ikernels -MMD -MP -c $< -o $@

# The double loops of the CPU backend, which the ops are compared with, call no oneDNN: 40 MB that need not travel.
$(CU)/no_dnnl.c: $(BUILD)/libatelier.a
	@mkdir -p $(@D)
	@nm -u $< | sed -n 's/^ *U \(dnnl_[a-z0-9_]*\)$$/int \1(void);\nint \1(void) { return 3; }/p' | awk '!seen[$$0]++' >$@

# The kernels once for all programs, with the shared runtime.
$(GPU)/lib/libkernels.so: $(KERNELS:%.cu=$(CU)/%.o) $(GPU_CU)
	@mkdir -p $(@D)
	$(SAY) LD $@
	$(Q)$(CC) -shared $^ -L$(CUDA_HOME)/lib64 -lcudart -static-libgcc -Wl,-Bstatic -lstdc++ -Wl,-Bdynamic -o $@

GPU_OBJ  := $(CU)/device.o $(CUDASRC:%.c=$(CU)/%.o)
GPU_LINK = $(LDFLAGS) -s -Wl,--as-needed -Wl,-rpath,'$$ORIGIN/../lib' $(GPU_OBJ) $(CU)/no_dnnl.c $(BUILD)/libatelier.a \
           -L$(GPU)/lib -lkernels -L$(CUDA_HOME)/lib64 -lcudart $(filter-out -ldnnl,$(LDLIBS))

$(GPU)/bin/%: tests/cuda/%.c $(GPU_OBJ) $(GPU)/lib/libkernels.so $(BUILD)/libatelier.a $(CU)/no_dnnl.c
	@mkdir -p $(@D) $(CU)/bin
	$(SAY) CC "$< [GPU]"
	$(Q)$(CC) $(CFLAGS) -Wno-conversion $(SYS_CFLAGS) -isystem $(CUDA_HOME)/include -Ikernels -Itests -MMD -MP -MF $(CU)/bin/$*.d $< $(GPU_LINK) -lcmocka -o $@

$(GPU)/bin/model_%: tests/models/test_%.c $(GPU_OBJ) $(GPU)/lib/libkernels.so $(BUILD)/libatelier.a $(CU)/no_dnnl.c
	@mkdir -p $(@D) $(CU)/bin
	$(SAY) CC "$< [GPU]"
	$(Q)$(CC) $(CFLAGS) -Wno-conversion -DFIX_CUDA $(SYS_CFLAGS) -isystem $(CUDA_HOME)/include -Itests -MMD -MP -MF $(CU)/bin/model_$*.d $< $(GPU_LINK) -lcmocka -o $@

$(GPU)/bin/bench_gpu: $(BENCH_GPU) $(wildcard benchmarks/gpu/*.h) $(GPU_OBJ) $(GPU)/lib/libkernels.so $(BUILD)/libatelier.a $(CU)/no_dnnl.c
	@mkdir -p $(@D)
	$(SAY) CC "benchmarks/gpu [GPU]"
	$(Q)$(CC) $(CFLAGS) $(SYS_CFLAGS) -isystem $(CUDA_HOME)/include -Ikernels -Ibenchmarks/gpu $(BENCH_GPU) $(GPU_LINK) -o $@

# What the emulated twins of the PTX give; the libraries that the programs need beside glibc; the vectors; the scripts.
$(GPU)/ready: $(GPU_BIN) $(EMU)/tests/wrappers tests/cuda/check_gpu.sh tests/cuda/gpu_libs.sh tests/run.sh benchmarks/gpu.sh benchmarks/gpu_peer.py $(CU).state
	@$(EMU)/tests/wrappers write $(GPU)/twins.bin
	@tests/cuda/gpu_libs.sh $(GPU)
	@mkdir -p $(GPU)/tests; cp tests/run.sh $(GPU)/tests/; cp tests/cuda/check_gpu.sh tests/cuda/cublas.sh $(GPU)/; echo "commit $(COMMIT)" >$(GPU)/commit
	@cp -r --parents $(GPU_VECTORS) benchmarks/gpu.sh benchmarks/gpu_peer.py $(GPU)/
	@touch $@

.PHONY: gpu-bundle check-gpu
ifeq ($(CUDA_ON),)
gpu-bundle:
	@echo "make gpu-bundle needs nvcc" >&2; false
check-gpu:
	@echo "built without CUDA: the tests for a GPU are not built"; [ -z "$$TEST_TALLY" ] || echo "0 0 $(words $(GPU_TESTS) $(GPU_MODELS))" >>"$$TEST_TALLY"
	@echo "0 passed, 0 failed, $(words $(GPU_TESTS) $(GPU_MODELS)) skipped"
else
gpu-bundle: $(GPU)/ready ## build/gpu: tests and benchmarks to carry to a machine with a GPU
	@du -sh $(GPU) | sed 's|\(.*\)\t\(.*\)|  \2: \1; there: build/gpu/check_gpu.sh|'
check-gpu: gpu-bundle ## the CUDA backend on this machine's GPU (skips without one)
	@tests/run.sh tests/cuda/bundle.sh
	@$(GPU)/check_gpu.sh
endif
