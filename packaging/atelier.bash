# bash completion for atelier. Commands, options and keys come from the program's own help, so they are always those of the version in use.
_atelier() {
    local cur=${COMP_WORDS[COMP_CWORD]} program=${COMP_WORDS[0]} command=${COMP_WORDS[1]:-} words
    COMPREPLY=()
    if [ "$COMP_CWORD" -eq 1 ] || { [ "$command" = help ] && [ "$COMP_CWORD" -eq 2 ]; }; then
        words=$("$program" help 2>/dev/null | awk '/^  [a-z]+ / && $1 != "atelier" {print $1}')
        mapfile -t COMPREPLY < <(compgen -W "$words help --version" -- "$cur")
        return
    fi
    case $cur in
    -*)
        words=$("$program" help "$command" 2>/dev/null | grep -oE -- '--[a-z][a-z-]*' | sort -u)
        mapfile -t COMPREPLY < <(compgen -W "$words --help" -- "$cur")
        ;;
    *)
        # Keys of the configuration, with their '=', and files.
        local help=$command prefix=
        [[ $command = submit ]] && prefix=job.
        [[ $command =~ ^(plan|lock)$ ]] && help=train
        words=$("$program" help "$help" 2>/dev/null | sed -n '/^Keys of/,$p' | sed -n "s/^  \([a-z_][a-z_0-9.]*\) .*/$prefix\1=/p")
        mapfile -t COMPREPLY < <(compgen -f -- "$cur"; [ -n "$cur" ] && compgen -W "$words" -- "$cur")
        [[ ${COMPREPLY[0]:-} = *= ]] && compopt -o nospace
        ;;
    esac
}
complete -o filenames -F _atelier atelier
