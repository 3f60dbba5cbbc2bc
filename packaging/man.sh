#!/bin/sh
# Man pages from the program's own help: packaging/man.sh PROGRAM FOLDER
set -eu
program=$1 out=$2
version=$("$program" --version | awk '{print $2}')
mkdir -p "$out"
roff() { sed -e 's/\\/\\e/g' -e "s/^\([.']\)/\\\\\&\1/" -e 's/-/\\-/g'; }
page() { # NAME LINE HELP-COMMAND...
    name=$1 line=$2
    shift 2
    {
        printf '.TH %s 1 "" "atelier %s" "Atelier"\n.SH NAME\n%s \\- %s\n' "$(echo "$name" | tr a-z A-Z)" "$version" "$name" "$(echo "$line" | roff)"
        "$@" | awk '
            NR == 1 && /^usage: / { print ".SH SYNOPSIS\n.nf"; sub(/^usage: /, ""); print; synopsis = 1; next }
            synopsis && /^ +\[?/ && !/^$/ { print; next }
            synopsis && /^$/ { print ".fi\n.SH DESCRIPTION\n.nf"; synopsis = 0; next }
            /^Keys of / { print ".fi\n.SH CONFIGURATION\n.nf"; next }
            { print "\001" $0 }' | sed -e 's/\\/\\e/g' -e '/^\x01/{s/^\x01//; s/^\([.'"'"']\)/\\\&\1/; s/-/\\-/g;}'
        printf '.fi\n.SH SEE ALSO\n%s\n' "$([ "$name" = atelier ] && echo ".BR atelier\\-COMMAND (1)" || echo '.BR atelier (1)')"
    } >"$out/$name.1"
}
page atelier "fine-tune latent diffusion models and render sweeps, exactly" "$program" help
"$program" help | awk '/^  [a-z]+ / && $1 != "atelier" {n = $1; $1 = ""; sub(/^ /, ""); print n "\t" $0}' |
    while IFS="$(printf '\t')" read -r n line; do page "atelier-$n" "$line" "$program" help "$n"; done
