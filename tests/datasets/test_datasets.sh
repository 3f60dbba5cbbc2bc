# The shipped art: counts, sizes, captions, checksums (datasets/test_datasets.py).
out=$(python3 datasets/test_datasets.py 2>&1)
rc=$?
echo "$out"
if [ $rc -eq 0 ]; then echo "ok test_datasets__shipped_art"; else echo "not ok test_datasets__shipped_art"; fi
exit $rc
