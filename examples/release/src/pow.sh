# pow
pow() {
  r=1 n=$2
  while [ "$n" -gt 0 ]; do r=$((r * $1)) n=$((n - 1)); done
  echo $r
}
