#!/usr/bin/env bash
# What `atelier plan` says of a sweep with templates and conditions; refusals.
. tests/sweep/lib.sh

config "$T/a" >"$T/a.yaml"
says() { # NAME TEXT ARGUMENTS...
    local name=$1 text=$2 out
    shift 2
    out=$("$A" plan "$T/a.yaml" "$@" threads=1 2>&1)
    if printf '%s' "$out" | grep -qF -- "$text"; then ok "$name"; else bad "$name" "$out"; fi
}
says plan__images "24 images = prompt 2 x seed 3 x lora 2 x guidance 2, "
says plan__conditions "18 images = prompt 2 x seed 3 x lora 2 x guidance 2, less 6 that the conditions take out" exclude="guidance=4 and lora='te'"
says plan__bytes "(uncompressed 54.0 KiB), latents"
says plan__time "time about"
says plan__templates "120 images = prompt 10" 'axes.prompt={template: "{a|b} {c|d|e|f|g}", mode: combinatorial}'
refused plan__refuses_unknown_names 1 "did you mean 'guidance'" "$A" plan "$T/a.yaml" only="guidence=4"
refused plan__refuses_bad_templates 1 "'}' of this '{'" "$A" plan "$T/a.yaml" 'axes.prompt={template: "{a|b", count: 2}'
refused plan__refuses_missing_wildcards 1 "no folder of wildcards is set" "$A" plan "$T/a.yaml" 'axes.prompt={template: "__x__", count: 2}'
exit $((fails > 0))
