# docker build --build-arg COMMIT=$(git describe --always --dirty --abbrev=12) -t atelier .
# docker run --gpus all -v $PWD:/data atelier train my-lora.yaml          several ranks: --entrypoint mpirun ... -np 4 atelier train ...
# With kernels: --build-arg BUILD_BASE=nvidia/cuda:12.4.1-devel-ubuntu22.04 has nvcc, RUN_BASE=nvidia/cuda:12.4.1-runtime-ubuntu22.04 cuBLAS and NCCL;
# package names in packaging/image.sh are Debian 12's. Without them: a CPU image.
ARG BUILD_BASE=debian:bookworm-slim
ARG RUN_BASE=debian:bookworm-slim

FROM ${BUILD_BASE} AS build
COPY packaging/image.sh /usr/local/bin/image.sh
RUN image.sh build-deps
COPY . /src
ARG COMMIT=unknown
RUN COMMIT=$COMMIT image.sh build

FROM ${RUN_BASE}
COPY packaging/image.sh /usr/local/bin/image.sh
RUN image.sh run-deps && image.sh user && rm /usr/local/bin/image.sh
COPY --from=build /image/ /
ENV ATELIER_SLURM=/usr/share/atelier/slurm OMPI_MCA_btl_vader_single_copy_mechanism=none \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 1000
WORKDIR /data
ENTRYPOINT ["atelier"]
