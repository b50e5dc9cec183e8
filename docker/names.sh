# Sourced by the scripts of the Compose demo, some of which run where there is nothing but a shell.

# name_of CODEC: the run's name, demo-bu16 for bu:16.
name_of() {
  rest="$1" name=demo-
  while [ -n "$rest" ]; do
    letter="${rest%"${rest#?}"}" rest="${rest#?}"
    case "$letter" in [A-Za-z0-9]) name="$name$letter" ;; esac
  done
  echo "$name"
}
