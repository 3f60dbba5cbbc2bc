# docker build --build-arg COMMIT=$(git describe --always --dirty --abbrev=12) -t atelier .
# docker run --gpus all -v $PWD:/data atelier train my-lora.yaml          several ranks: --entrypoint mpirun ... -np 4 atelier train ...
# --build-arg CUDA=13-0 adds NVIDIA's compiler to the first stage and cuBLAS and NCCL to the second; without it: a CPU image.
FROM debian:bookworm-slim AS build
ARG CUDA=
COPY packaging/image.sh /usr/local/bin/image.sh
RUN CUDA=$CUDA image.sh build-deps
COPY . /src
ARG COMMIT=unknown
RUN COMMIT=$COMMIT image.sh build

FROM debian:bookworm-slim
ARG CUDA=
COPY packaging/image.sh /usr/local/bin/image.sh
RUN CUDA=$CUDA image.sh run-deps && image.sh user && rm /usr/local/bin/image.sh
COPY --from=build /image/ /
ENV ATELIER_SLURM=/usr/share/atelier/slurm OMPI_MCA_btl_vader_single_copy_mechanism=none \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 1000
WORKDIR /data
ENTRYPOINT ["atelier"]
