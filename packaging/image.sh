#!/bin/sh
# The steps of the image, one word each; the Dockerfile, the Apptainer definition and `make check-image` run this very file.
#     image.sh build-deps | build | run-deps | user          in a bare Debian 12 (as root; sources in /src)
set -eu
export DEBIAN_FRONTEND=noninteractive
[ "${CUDA:-}" != 0 ] || CUDA= # as for make: no kernels
apt() {
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends "$@"
    rm -rf /var/lib/apt/lists/* /var/cache/apt/archives/*.deb
}
# The CUDA compiler and libraries of NVIDIA's repository for Debian 12, where CUDA says which (13-0; sm_100 needs 12-8 or later); else a
# program without kernels.
cuda() {
    [ -n "${CUDA:-}" ] || return 0
    apt ca-certificates wget
    wget -q -O /tmp/keyring.deb https://developer.download.nvidia.com/compute/cuda/repos/debian12/x86_64/cuda-keyring_1.1-1_all.deb
    dpkg -i /tmp/keyring.deb
    rm /tmp/keyring.deb
    apt "$@"
}
case $1 in
build-deps)
    apt gcc g++ make pkg-config python3 libdnnl-dev libopenmpi-dev openmpi-bin libhdf5-dev libpng-dev libjpeg62-turbo-dev libwebp-dev libcairo2-dev \
        libpango1.0-dev libyaml-dev libjansson-dev liblapacke-dev libssl-dev libcurl4-openssl-dev libpcre2-dev libutf8proc-dev
    cuda "cuda-nvcc-${CUDA:-}" "cuda-cudart-dev-${CUDA:-}" "libcublas-dev-${CUDA:-}"
    ;;
build) # program, scripts and man pages under /image
    cd /src
    export PATH="$PATH:/usr/local/cuda/bin"
    if [ -n "${CUDA:-}" ]; then with=1; else with=0; fi
    make -j"$(nproc)" CUDA=$with COMMIT="${COMMIT:-unknown}" PREFIX=/usr DESTDIR=/image install
    strip /image/usr/bin/atelier
    ;;
run-deps) # nothing but the libraries, MPI with its ssh, and fonts for contact sheets
    apt libdnnl2 openmpi-bin openssh-client openssh-server libhdf5-103-1 libpng16-16 libjpeg62-turbo libwebp7 libwebpmux3 libpangocairo-1.0-0 libyaml-0-2 \
        libjansson4 liblapacke libgomp1 libcurl4 libpcre2-8-0 libutf8proc2 fonts-dejavu-core ca-certificates
    cuda "libcublas-${CUDA:-}" libnccl2
    ;;
user) # without root; sshd and ssh for mpirun between pods, with the keys that the MPI Operator mounts at ~/.ssh
    useradd -m -u 1000 -s /bin/bash atelier
    printf 'Port 2222\nHostKey ~/.ssh/id_rsa\nAuthorizedKeysFile ~/.ssh/authorized_keys\nPidFile /home/atelier/sshd.pid\nStrictModes no\nUsePAM no\n' |
        sed 's|~|/home/atelier|g' >/home/atelier/.sshd_config
    printf 'Host *\n  Port 2222\n  StrictHostKeyChecking no\n  UserKnownHostsFile /dev/null\n' >/etc/ssh/ssh_config.d/atelier.conf
    chown -R atelier: /home/atelier
    ;;
*) echo "image.sh: unknown step $1" >&2; exit 2 ;;
esac
