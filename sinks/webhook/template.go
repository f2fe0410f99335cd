package webhook

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"text/template"
)

// parse reads a template. Beside those of text/template it may call
//
//	json VALUE      the value as JSON, quotes included
//	get PATH        the value at a path of the event ("event.action"), "" if there is none
//
// Its dot is the event in the sink's format, decoded.
func parse(text string) (*template.Template, error) {
	t, err := template.New("body").Option("missingkey=zero").Funcs(functions(nil)).Parse(text)
	if err != nil {
		return nil, err
	}
	return t, nil
}

func functions(event map[string]any) template.FuncMap {
	return template.FuncMap{
		"json": func(v any) (string, error) {
			var b bytes.Buffer
			enc := json.NewEncoder(&b)
			enc.SetEscapeHTML(false)
			err := enc.Encode(v)
			return strings.TrimSuffix(b.String(), "\n"), err
		},
		"get": func(path string) any {
			var at any = event
			for part := range strings.SplitSeq(path, ".") {
				object, ok := at.(map[string]any)
				if !ok {
					return ""
				}
				at = object[part]
			}
			if at == nil {
				return ""
			}
			return at
		},
	}
}

// execute makes the body of one event. Numbers stay exact.
func execute(t *template.Template, body []byte) ([]byte, error) {
	var event map[string]any
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.UseNumber()
	if err := dec.Decode(&event); err != nil {
		return nil, fmt.Errorf("the event is no JSON object in this format: %w", err)
	}
	own, err := t.Clone() // functions belong to one execution
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	if err := own.Funcs(functions(event)).Execute(&out, event); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}
