# Each recipe begins with `source recipe.sh`. It goes to the top of the project, makes .venv if
# there is none, and sets what the recipes use:
#
#   DATA=DIR   folder that has the text already, or several: DIR:DIR; without it, the text is
#              downloaded
#   SEED=2     seed of the training; 1 if it is not set
#   $recipe    path of the recipe
#   $run       directory of the run, which has the scores too
#
# shellcheck shell=bash

recipe=scripts/recipes/$(basename -- "$0")
origins=()
IFS=: read -ra folders <<<"${DATA:-}"
for folder in ${folders[@]+"${folders[@]}"}; do
    origins+=(--from "$(CDPATH='' cd -- "$folder" && pwd)")
done
CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.."
if [[ ! -x .venv/bin/mt ]]; then scripts/setup; fi
PATH="$PWD/.venv/bin:$PATH"
SEED=${SEED:-1}
run=runs/$(basename -- "$0")-$SEED

# Shows a command on stderr, then runs it.
show() {
    printf '\n$ %s\n' "$*" >&2
    "$@"
}

# Gets the text NAME: get_data NAME
get_data() {
    show python -m scripts.recipes.get_data "$1" ${origins[@]+"${origins[@]}"}
}

# Scores the test sets: evaluate RUN_DIR [OPTION ...]
evaluate() {
    mkdir -p "$run"
    show mt evaluate "$@" --json >"$run/scores.json"
}

# Sets held-out text aside, once: split_table TABLE SRC TGT
split_table() {
    local split
    split=$(dirname -- "$1")/split
    if [[ ! -d $split ]]; then
        show mt split "$1" --src-lang "$2" --tgt-lang "$3" -o "$split"
    fi
}

# Installs the tokenizer that evaluate_as_published needs, if it is missing.
install_sacremoses() {
    if ! python -c 'import sacremoses' 2>/dev/null; then
        show python -m pip install sacremoses==0.2.0
    fi
}

# Scores a model of Multi30k's raw text by the published measure: its translations of the test set
# are lowercased and tokenized as the release was, and BLEU does not tokenize them again.
# evaluate_as_published RUN_DIR [OPTION ...]
evaluate_as_published() {
    local name=test_2016_flickr.lc.norm.tok.de
    show mt translate "$@" -i data/multi30k/test_2016_flickr.en -o "$run/test_2016_flickr.de"
    python -m scripts.recipes.moses_tokenize de <"$run/test_2016_flickr.de" >"$run/$name"
    show mt evaluate --hyp "$run/$name" --ref "data/multi30k-tok/$name" --lang de \
        --tokenize none --lowercase --json >"$run/scores-as-published.json"
}

# Compares the scores of the test sets with the header. This is the end of a recipe.
compare_scores() {
    show python -m scripts.recipes.compare "$recipe" "$run"/scores*.json
}
