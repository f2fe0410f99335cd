package format

// What the tests look at from outside.
var (
	ValidJSON  = validJSON[[]byte]
	CleanLine  = cleanLine
	BaseName   = baseName
	OSType     = osType
	LinkOf     = linkOf
	AddressOf  = addressOf
	ListOf     = listOf
	IntOf      = intOf
	Unquote    = unquote
	MaxText    = maxText
	MaxCmdLine = maxCmdLine
)

// Redact masks as Of does. Without hints every pattern is tried.
func Redact(s string, hints bool) (string, bool) {
	x := shared().redactor
	if !hints {
		x.rules = append([]redaction(nil), x.rules...)
		for i := range x.rules {
			x.rules[i].hints = nil
		}
	}
	return x.apply(s)
}

// Categories lists the rows of the threat categories.
func Categories() []threatClass { return shared().classifier.classes }

// AppendString appends a JSON string.
func AppendString(dst []byte, s string) []byte { return appendString(dst, s) }
