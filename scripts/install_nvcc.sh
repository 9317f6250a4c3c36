#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
# In a container of manylinux_2_28: the compiler of one CUDA, without driver and libraries.
#
#   scripts/install_nvcc.sh 12.8
set -eu
version=$(echo "$1" | tr . -)
case $(uname -m) in x86_64) machine=x86_64 ;; aarch64) machine=sbsa ;; *) echo "no CUDA for $(uname -m)" >&2; exit 1 ;; esac
dnf -y install dnf-plugins-core
dnf config-manager --add-repo "https://developer.download.nvidia.com/compute/cuda/repos/rhel8/$machine/cuda-rhel8.repo"
dnf -y install "cuda-nvcc-$version" "cuda-cudart-devel-$version"
ln -sfn "/usr/local/cuda-$1" /usr/local/cuda
/usr/local/cuda/bin/nvcc --version
