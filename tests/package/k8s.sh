#!/usr/bin/env bash
# The Kubernetes manifests against the schemas of Kubernetes (kubernetes-validate; MPIJob's own schema is in tests/vectors), and what
# Kubernetes does with them: requests, retries, indices.
PY=${K8S_PYTHON:-build/s3-venv/bin/python}
"$PY" -c 'import kubernetes_validate' 2>/dev/null || { echo "skip k8s: no Python with kubernetes-validate (make check-cloud installs it)"; exit 0; }
"$PY" tests/package/k8s.py k8s/*.yaml
