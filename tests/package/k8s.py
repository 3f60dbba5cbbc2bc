"""python3 k8s.py FILE.yaml ...: validates every document; TAP lines."""
import sys
import yaml
import kubernetes_validate

VERSION = "1.29"
bad = 0


def result(name, problem):
    global bad
    bad += problem is not None
    print(("ok " if problem is None else "not ok ") + name)
    if problem is not None:
        print("# " + str(problem).replace("\n", "\n# "))


def pod_specs(doc):
    """Pod templates inside a document."""
    spec = doc.get("spec", {})
    if doc["kind"] == "Job":
        yield spec["template"]
    for replica in spec.get("mpiReplicaSpecs", {}).values():
        yield replica["template"]


def validate(doc):
    if doc["kind"] != "MPIJob":
        kubernetes_validate.validate(doc, VERSION, strict=True)
        return
    # The MPI Operator's CRD (kubeflow.org/v2beta1): its own keys here, the pods in it against Kubernetes' schema.
    assert doc["apiVersion"] == "kubeflow.org/v2beta1"
    assert set(doc["spec"]) <= {"slotsPerWorker", "runPolicy", "mpiReplicaSpecs", "sshAuthMountPath", "mpiImplementation", "launcherCreationPolicy"}, doc["spec"].keys()
    assert set(doc["spec"]["runPolicy"]) <= {"cleanPodPolicy", "ttlSecondsAfterFinished", "activeDeadlineSeconds", "backoffLimit", "schedulingPolicy", "suspend"}
    assert set(doc["spec"]["mpiReplicaSpecs"]) == {"Launcher", "Worker"}
    for r in doc["spec"]["mpiReplicaSpecs"].values():
        assert set(r) <= {"replicas", "restartPolicy", "template"}
    for n, t in enumerate(pod_specs(doc)):
        kubernetes_validate.validate({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"p{n}"}, "spec": t["spec"]}, VERSION, strict=True)


for path in sys.argv[1:]:
    with open(path, encoding="utf-8") as f:
        docs = [d for d in yaml.safe_load_all(f) if d]
    for doc in docs:
        name = f"k8s__{doc['kind']}_{doc['metadata']['name']}"
        problem = None
        try:
            validate(doc)
        except Exception as e:  # whatever is wrong is the test's answer
            problem = e
        result(name, problem)
        for t in pod_specs(doc):
            s = t["spec"]
            non_root = s.get("securityContext", {}).get("runAsNonRoot")
            result(name + "_runs_as_a_user", None if non_root else "securityContext.runAsNonRoot is not set")
            grace = s.get("terminationGracePeriodSeconds", 30)
            result(name + "_has_time_to_save", None if grace >= 60 else f"terminationGracePeriodSeconds {grace}")
        if doc["kind"] == "Job" and doc["spec"].get("completionMode") == "Indexed":
            n = doc["spec"]["completions"]
            text = str(doc)
            result(name + "_shards_match", None if f"/{n}" in text or f"'value': '{n}'" in text else f"{n} completions, other number of shards")
sys.exit(bad > 0)
